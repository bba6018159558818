/* The far end of every measurement: one thread, one epoll loop, two listening ports.
 *
 * usage: origin ADDRESS TUNNEL_PORT HTTP_PORT CPU
 *
 * On TUNNEL_PORT it reads an opening (wire.h) and sends as many bytes as that asks for. On HTTP_PORT it answers every
 * HTTP/1 request with the same small body and keeps the connection. It says `ready` when it listens. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

enum { EVENTS_MAX = 256, ACCEPT_MAX = 64, BACKLOG = 4096, CHUNK = 1 << 18, HTTP_BODY = 512 };

struct conn {
    int fd, is_listener, is_http, has_opened;
    size_t filled;
    long long left;
    unsigned char in[4096];
};

static int epoll, source;
static char answer[1024];
static size_t answer_bytes;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(struct conn *conn, uint32_t events, int op) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll, op, conn->fd, &event)) die("epoll_ctl");
}

static void listen_on(const char *address, int port, int is_http) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    struct conn *conn = calloc(1, sizeof *conn);
    inet_pton(AF_INET, address, &name.sin_addr);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    conn->is_listener = 1;
    conn->is_http = is_http;
    setsockopt(conn->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(conn->fd, (void *)&name, sizeof name) || listen(conn->fd, BACKLOG)) die("listen");
    watch(conn, EPOLLIN, EPOLL_CTL_ADD);
}

static void accept_from(struct conn *listener) {
    int one = 1;
    for (int taken = 0; taken < ACCEPT_MAX; taken++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        struct conn *conn = calloc(1, sizeof *conn);
        conn->fd = fd;
        conn->is_http = listener->is_http;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(conn, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void end(struct conn *conn) {
    close(conn->fd);
    free(conn);
}

/* Send what is still owed; returns -1 when the connection is gone. */
static int pay(struct conn *conn) {
    while (conn->left > 0) {
        off_t offset = 0;
        ssize_t sent = sendfile(conn->fd, source, &offset, conn->left < CHUNK ? (size_t)conn->left : CHUNK);
        if (sent < 0 && errno == EAGAIN) {
            watch(conn, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return 0;
        }
        if (sent <= 0) return -1;
        conn->left -= sent;
        if (conn->left > 0) {
            watch(conn, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD); /* others have their turn first */
            return 0;
        }
    }
    watch(conn, EPOLLIN, EPOLL_CTL_MOD);
    return 0;
}

static int answer_requests(struct conn *conn) {
    for (;;) {
        char *head_end = memmem(conn->in, conn->filled, "\r\n\r\n", 4);
        if (!head_end) return conn->filled == sizeof conn->in ? -1 : 0;
        size_t used = (size_t)(head_end + 4 - (char *)conn->in);
        int closes = memmem(conn->in, used, "Connection: close", 17) != NULL;
        if (send(conn->fd, answer, answer_bytes, MSG_NOSIGNAL) != (ssize_t)answer_bytes) return -1;
        conn->filled -= used;
        memmove(conn->in, conn->in + used, conn->filled);
        if (closes) return -1;
    }
}

static int hear(struct conn *conn) {
    ssize_t got = recv(conn->fd, conn->in + conn->filled, sizeof conn->in - conn->filled, 0);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    conn->filled += (size_t)got;
    if (conn->is_http) return answer_requests(conn);
    if (conn->has_opened) {
        conn->filled = 0;
        return 0;
    }
    if (conn->filled < OPENING_BYTES) return 0;
    conn->has_opened = 1;
    conn->filled = 0;
    conn->left = atoll((char *)conn->in + HELLO_BYTES + RECORD_HEADER_BYTES + 1);
    return pay(conn);
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS_MAX];
    struct rlimit files;
    cpu_set_t cpus;
    char body[HTTP_BODY + 1] = {0};
    static char zeros[CHUNK];
    if (argc != 5) return 2;
    signal(SIGPIPE, SIG_IGN);
    CPU_ZERO(&cpus);
    CPU_SET(atoi(argv[4]), &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus)) die("sched_setaffinity");
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    memset(body, 'x', HTTP_BODY);
    answer_bytes = (size_t)snprintf(answer, sizeof answer,
                                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
                                    HTTP_BODY, body);
    source = memfd_create("source", 0);
    if (write(source, zeros, CHUNK) != CHUNK) die("write");
    epoll = epoll_create1(0);
    listen_on(argv[1], atoi(argv[2]), 0);
    listen_on(argv[1], atoi(argv[3]), 1);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn->is_listener) accept_from(conn);
            else if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && hear(conn)) end(conn);
            else if ((events[i].events & EPOLLOUT) && conn->left > 0 && pay(conn)) end(conn);
        }
    }
}
