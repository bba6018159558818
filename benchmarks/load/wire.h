/* What the load client and the far end agree on: how a tunnel's first bytes look, and how a reply is asked for.
 *
 * A tunnel opens as TLS does: a ClientHello (RFC 8446 section 4.1.2) with a server name, so that a proxy that looks at
 * the opening has its real work to do. Behind it comes one record of application data that holds the command: `G` and
 * how many bytes to send back, padded with blanks. Nothing after that is TLS; no proxy here reads further. */
#ifndef WIRE_H
#define WIRE_H

#include <stdio.h>
#include <string.h>

enum { HELLO_BYTES = 517, COMMAND_BYTES = 16, RECORD_HEADER_BYTES = 5 };
enum { OPENING_BYTES = HELLO_BYTES + RECORD_HEADER_BYTES + COMMAND_BYTES };

static inline unsigned char *put16(unsigned char *at, unsigned value) {
    *at++ = (unsigned char)(value >> 8);
    *at++ = (unsigned char)value;
    return at;
}

/* Write an opening of OPENING_BYTES for the server name `name` (at most 64 bytes) that asks for `reply` bytes. */
static inline void write_opening(unsigned char *out, const char *name, long long reply) {
    unsigned length = (unsigned)strlen(name);
    unsigned char *at = out;
    memset(out, 0, OPENING_BYTES);
    *at++ = 0x16; /* handshake record */
    at = put16(at, 0x0301);
    at = put16(at, HELLO_BYTES - RECORD_HEADER_BYTES);
    *at++ = 1; /* ClientHello */
    *at++ = 0;
    at = put16(at, HELLO_BYTES - RECORD_HEADER_BYTES - 4);
    at = put16(at, 0x0303);
    memset(at, 'r', 32); /* random */
    at += 32;
    *at++ = 32; /* session id */
    memset(at, 's', 32);
    at += 32;
    at = put16(at, 2); /* cipher suites */
    at = put16(at, 0x1301);
    *at++ = 1; /* compression: none */
    *at++ = 0;
    unsigned char *extensions = at;
    at += 2;
    at = put16(at, 0); /* server_name, RFC 6066 section 3 */
    at = put16(at, length + 5);
    at = put16(at, length + 3);
    *at++ = 0;
    at = put16(at, length);
    memcpy(at, name, length);
    at += length;
    at = put16(at, 43); /* supported_versions: TLS 1.3 */
    at = put16(at, 3);
    *at++ = 2;
    at = put16(at, 0x0304);
    at = put16(at, 21); /* padding, RFC 7685 */
    put16(at, (unsigned)(out + HELLO_BYTES - at - 2));
    put16(extensions, (unsigned)(out + HELLO_BYTES - extensions - 2));
    at = out + HELLO_BYTES;
    *at++ = 0x17; /* application data record */
    at = put16(at, 0x0303);
    at = put16(at, COMMAND_BYTES);
    char command[32];
    snprintf(command, sizeof command, "G%-15lld", reply);
    memcpy(at, command, COMMAND_BYTES);
}

#endif
