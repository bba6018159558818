/* The load: tunnels, connections, requests and look-ups, in one thread on one epoll loop; prints one line of JSON.
 *
 * usage: client MODE KEY=VALUE...
 *
 * MODE     bulk       `tunnels` at once, `bytes` down each; without `bytes`, until `seconds` are over
 *          connect    `count` times, `tunnels` at once: open, opening, `reply` bytes back, close
 *          requests   `count` HTTP requests over `tunnels` connections that are kept
 *          idle       `tunnels` opened and held until standard input ends
 *          lookups    `count` questions for `names` different names over UDP, `tunnels` at once
 * KEY      to=ADDRESS:PORT   where to connect: the proxy, or the far end itself
 *          via=connect|none  whether `to` is a proxy that wants a CONNECT (or, for requests, whole URLs)
 *          host=NAME:PORT    the far end by its name
 *          tunnels= count= bytes= reply= names= seconds= cpu=
 *
 * bulk and idle say `ready` on a line of their own once every tunnel has had its first byte. Times are microseconds,
 * each from connect(2), or the question, to the last byte of the reply. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

enum { EVENTS_MAX = 256, IN_MAX = 4096, FAILURES_MAX = 50, DISCARD = 1 << 20, FAILURES_SHOWN = 3 };
enum state { CONNECTING, ASKED, OPENED, ENDED };

struct conn {
    int fd;
    enum state state;
    int answered;
    double began;
    long long got;
    size_t filled;
    char in[IN_MAX];
};

static const char *mode = "";
static struct sockaddr_in to;
static char host[128] = "", name[128] = "";
static int uses_connect, tunnels = 1, names = 1, cpu = -1;
static long count = 1;
static long long bytes, reply = 1024;
static double seconds = 60;

static int epoll;
static long begun, done, failures, opened;
static long long received;
static double *times;
static unsigned char opening[OPENING_BYTES];
static char request[512], connect_request[512];
static size_t request_bytes, connect_bytes;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int is(const char *word) { return !strcmp(mode, word); }

static void watch(struct conn *conn, uint32_t events, int op) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    epoll_ctl(epoll, op, conn->fd, &event);
}

static void say_ready(void) {
    puts("ready");
    fflush(stdout);
}

static void start(struct conn *conn);

static void leave(struct conn *conn) {
    if (conn->fd >= 0) close(conn->fd);
    conn->fd = -1;
    conn->state = ENDED;
}

static void start_next(struct conn *conn) {
    if ((is("connect") || is("requests")) && begun < count) {
        begun++;
        start(conn);
    }
}

static void fail(struct conn *conn, const char *why) {
    if (failures++ < FAILURES_SHOWN)
        fprintf(stderr, "%s in state %d: %s: %.*s\n", why, conn->state, strerror(errno), (int)conn->filled, conn->in);
    leave(conn);
    if (failures > FAILURES_MAX) {
        fprintf(stderr, "more than %d failures\n", FAILURES_MAX);
        exit(3);
    }
    start_next(conn);
}

static void start(struct conn *conn) {
    int one = 1;
    conn->filled = 0;
    conn->got = 0;
    conn->answered = 0;
    conn->began = now();
    conn->state = CONNECTING;
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (conn->fd < 0) {
        fail(conn, "socket");
        return;
    }
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(conn->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) {
        fail(conn, "connect");
        return;
    }
    watch(conn, EPOLLOUT, EPOLL_CTL_ADD);
}

static void say(struct conn *conn, const void *data, size_t size, enum state next) {
    conn->filled = 0;
    conn->state = next;
    if (send(conn->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) fail(conn, "send");
}

static void open_tunnel(struct conn *conn) {
    if (is("requests")) say(conn, request, request_bytes, OPENED);
    else say(conn, opening, sizeof opening, OPENED);
}

static void on_connected(struct conn *conn) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        errno = error;
        fail(conn, "connect");
        return;
    }
    watch(conn, EPOLLIN, EPOLL_CTL_MOD);
    if (uses_connect && !is("requests")) say(conn, connect_request, connect_bytes, ASKED);
    else open_tunnel(conn);
}

static void on_asked(struct conn *conn) {
    ssize_t got = recv(conn->fd, conn->in + conn->filled, IN_MAX - conn->filled, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        fail(conn, "the proxy hung up");
        return;
    }
    conn->filled += (size_t)got;
    if (!memmem(conn->in, conn->filled, "\r\n\r\n", 4)) return;
    if (conn->filled < 12 || memcmp(conn->in + 8, " 200", 4)) {
        fail(conn, "refused");
        return;
    }
    open_tunnel(conn);
}

static void finish(struct conn *conn) {
    times[done++] = (now() - conn->began) * 1e6;
    leave(conn);
    start_next(conn);
}

static void on_bytes(struct conn *conn) {
    long long wanted = is("bulk") ? bytes : reply;
    ssize_t got = recv(conn->fd, NULL, DISCARD, MSG_TRUNC); /* tcp(7): thrown away in the kernel */
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        fail(conn, "ended early");
        return;
    }
    if (!conn->got && ++opened == tunnels && (is("bulk") || is("idle"))) say_ready();
    conn->got += got;
    received += got;
    if (is("idle") || (is("bulk") && !bytes) || conn->got < wanted) return;
    finish(conn);
}

/* One whole answer has come: its head ends, and so many bytes as it announces follow. */
static int is_whole(const struct conn *conn) {
    const char *head_end = memmem(conn->in, conn->filled, "\r\n\r\n", 4);
    if (!head_end) return 0;
    const char *length = strcasestr(conn->in, "\r\nContent-Length:");
    if (!length || length > head_end) return 0;
    return conn->in + conn->filled >= head_end + 4 + atoi(length + 17);
}

static void on_answer(struct conn *conn) {
    ssize_t got = recv(conn->fd, conn->in + conn->filled, IN_MAX - 1 - conn->filled, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 && conn->answered && !conn->filled) { /* it does not keep connections: ask again on a new one */
        double began = conn->began;
        leave(conn);
        start(conn);
        conn->began = began;
        return;
    }
    if (got <= 0) {
        fail(conn, "no answer");
        return;
    }
    conn->filled += (size_t)got;
    conn->in[conn->filled] = 0;
    if (!is_whole(conn)) return;
    if (memcmp(conn->in + 8, " 200", 4)) {
        fail(conn, "not 200");
        return;
    }
    times[done++] = (now() - conn->began) * 1e6;
    conn->answered = 1;
    int closes = strcasestr(conn->in, "\r\nConnection: close") != NULL;
    if (begun >= count) {
        leave(conn);
        return;
    }
    if (closes) {
        leave(conn);
        start_next(conn);
        return;
    }
    begun++;
    conn->began = now();
    conn->filled = 0;
    if (send(conn->fd, request, request_bytes, MSG_NOSIGNAL) == (ssize_t)request_bytes) return;
    leave(conn);
    start(conn);
}

static void on_event(struct conn *conn) {
    switch (conn->state) {
        case CONNECTING: on_connected(conn); return;
        case ASKED: on_asked(conn); return;
        case OPENED: is("requests") ? on_answer(conn) : on_bytes(conn); return;
        case ENDED: return;
    }
}

/* Ask for `name` with a number in front; ids are the conn's index, so that answers find their question. */
static void ask(int fd, struct conn *conn, int index) {
    unsigned char packet[256] = {(unsigned char)(index >> 8), (unsigned char)index, 1, 0, 0, 1};
    unsigned char *at = packet + 12;
    char question[160], *label, *rest = question;
    snprintf(question, sizeof question, "h%ld.%s", begun % names, name);
    while ((label = strsep(&rest, "."))) {
        *at++ = (unsigned char)strlen(label);
        memcpy(at, label, strlen(label));
        at += strlen(label);
    }
    *at++ = 0;
    at = put16(at, 1); /* A */
    at = put16(at, 1); /* IN */
    begun++;
    conn->began = now();
    if (send(fd, packet, (size_t)(at - packet), 0) < 0) failures++;
}

static void look_up(struct conn *conns) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    unsigned char answer[1500];
    double deadline = now() + seconds;
    if (connect(fd, (void *)&to, sizeof to)) exit(3);
    for (int i = 0; i < tunnels && begun < count; i++) ask(fd, &conns[i], i);
    while (done < count && now() < deadline) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, 1000) <= 0) {
            failures++;
            break;
        }
        ssize_t got = recv(fd, answer, sizeof answer, 0);
        int index = answer[0] << 8 | answer[1];
        if (got < 12 || index >= tunnels || (answer[3] & 15) || !answer[7]) {
            failures++;
            break;
        }
        times[done++] = (now() - conns[index].began) * 1e6;
        if (begun < count) ask(fd, &conns[index], index);
    }
}

static void run(struct conn *conns) {
    struct epoll_event events[EVENTS_MAX];
    double deadline = now() + seconds;
    int is_held = is("idle") || (is("bulk") && !bytes);
    struct conn input = {.fd = 0, .state = ENDED};
    long wanted = is("bulk") || is("idle") ? tunnels : count;
    if (is("idle")) watch(&input, EPOLLIN | EPOLLHUP, EPOLL_CTL_ADD);
    for (int i = 0; i < tunnels && begun < wanted; i++) {
        begun++;
        start(&conns[i]);
    }
    while ((is_held || done + failures < wanted) && now() < deadline) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, 200);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr == &input) return;
            on_event(events[i].data.ptr);
        }
    }
}

static int order(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void parse(int argc, char **argv) {
    if (argc < 2) exit(2);
    mode = argv[1];
    to.sin_family = AF_INET;
    for (int i = 2; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) exit(2);
        *value++ = 0;
        const char *key = argv[i];
        if (!strcmp(key, "to")) {
            char *colon = strrchr(value, ':');
            if (!colon) exit(2);
            *colon = 0;
            to.sin_port = htons((uint16_t)atoi(colon + 1));
            if (inet_pton(AF_INET, value, &to.sin_addr) != 1) exit(2);
        } else if (!strcmp(key, "via")) uses_connect = !strcmp(value, "connect");
        else if (!strcmp(key, "host")) snprintf(host, sizeof host, "%s", value);
        else if (!strcmp(key, "tunnels")) tunnels = atoi(value);
        else if (!strcmp(key, "count")) count = atol(value);
        else if (!strcmp(key, "bytes")) bytes = atoll(value);
        else if (!strcmp(key, "reply")) reply = atoll(value);
        else if (!strcmp(key, "names")) names = atoi(value);
        else if (!strcmp(key, "seconds")) seconds = atof(value);
        else if (!strcmp(key, "cpu")) cpu = atoi(value);
        else exit(2);
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(host, ":"), host);
}

static void prepare(void) {
    struct rlimit files;
    if (cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(cpu, &cpus);
        sched_setaffinity(0, sizeof cpus, &cpus);
    }
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    long long asked = is("bulk") ? (bytes ? bytes : 100000000000000LL) : reply;
    write_opening(opening, name, asked);
    request_bytes = (size_t)snprintf(request, sizeof request,
                                     "GET %s%s/x HTTP/1.1\r\nHost: %s\r\nUser-Agent: client/1\r\nAccept: */*\r\n\r\n",
                                     uses_connect ? "http://" : "", uses_connect ? host : "", host);
    connect_bytes = (size_t)snprintf(connect_request, sizeof connect_request,
                                     "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", host, host);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    prepare();
    times = calloc((size_t)(count + tunnels), sizeof *times);
    struct conn *conns = calloc((size_t)tunnels, sizeof *conns);
    epoll = epoll_create1(0);
    double began = now();
    if (is("lookups")) look_up(conns);
    else run(conns);
    double took = now() - began;
    qsort(times, (size_t)done, sizeof *times, order);
    printf("{\"done\": %ld, \"failures\": %ld, \"bytes\": %lld, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f}\n", done,
           failures, received, took, done ? times[done / 2] : 0.0, done ? times[done * 99 / 100] : 0.0);
    return 0;
}
