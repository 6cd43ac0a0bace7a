/*
 * The plain way in C: one epoll, and one send() for each message and subscriber. What a server costs when the
 * language costs nothing and nothing is joined. WebSocket at /ws, Server-Sent Events at /sse?topic=...;
 * commands are recognised by their text, not parsed: it trusts its one client, the load generator.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOPICS 1024
#define INPUT 8192
#define BACKLOG_LIMIT (4 * 1024 * 1024) /* a reader further behind than this is cut off */

typedef struct Topic Topic;

typedef struct Conn {
    int fd;
    bool upgraded, sse;
    Topic *topic;
    int place;           /* index in the topic's list */
    char *in, *out;      /* allocated only while something is incomplete */
    size_t in_len, out_len;
    struct Conn *next_dead;
} Conn;

struct Topic {
    char name[64];
    Conn **members;
    int count, room;
};

static Topic topics[TOPICS];
static int epoll;
static Conn *dead; /* freed after the batch of events, which may still name them */

/* SHA-1 (RFC 3174), needed once a handshake. */
static void sha1(const uint8_t *data, size_t len, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}, w[80];
    uint8_t block[256] = {0};
    size_t total = (len + 9 + 63) / 64 * 64;
    memcpy(block, data, len);
    block[len] = 0x80;
    for (int i = 0; i < 8; i++)
        block[total - 1 - (size_t)i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
    for (size_t at = 0; at < total; at += 64) {
        for (int i = 0; i < 16; i++) {
            const uint8_t *p = block + at + 4 * i;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) { f = (b & c) | (~b & d); k = 0x5a827999; }
            else if (i < 40) { f = b ^ c ^ d; k = 0x6ed9eba1; }
            else if (i < 60) { f = (b & c) | (b & d) | (c & d); k = 0x8f1bbcdc; }
            else { f = b ^ c ^ d; k = 0xca62c1d6; }
            uint32_t t = (a << 5 | a >> 27) + f + e + k + w[i];
            e = d; d = c; c = b << 30 | b >> 2; b = a; a = t;
        }
        h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void accept_key(const char *key, size_t len, char out[29])
{
    static const char *alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char joined[128];
    uint8_t digest[21] = {0};
    int size = snprintf(joined, sizeof joined, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", (int)(len > 64 ? 64 : len), key);
    sha1((uint8_t *)joined, (size_t)size, digest);
    for (int i = 0; i < 7; i++) {
        uint32_t v = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int k = 0; k < 4; k++)
            out[4 * i + k] = alphabet[v >> (18 - 6 * k) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static Topic *find_topic(const char *name, size_t len)
{
    uint32_t hash = 2166136261u;
    len = len < sizeof topics->name ? len : sizeof topics->name - 1;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    for (uint32_t i = hash % TOPICS;; i = (i + 1) % TOPICS) {
        if (!topics[i].name[0])
            memcpy(topics[i].name, name, len);
        if (!strncmp(topics[i].name, name, len) && !topics[i].name[len])
            return &topics[i];
    }
}

static void join(Conn *c, Topic *topic)
{
    if (topic->count == topic->room) {
        topic->room = topic->room ? topic->room * 2 : 16;
        topic->members = realloc(topic->members, (size_t)topic->room * sizeof *topic->members);
    }
    c->topic = topic;
    c->place = topic->count;
    topic->members[topic->count++] = c;
}

static void drop(Conn *c)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    if (c->topic) {
        Conn *last = c->topic->members[--c->topic->count];
        c->topic->members[c->place] = last;
        last->place = c->place;
    }
    c->next_dead = dead;
    dead = c;
}

static void want_write(Conn *c, bool on)
{
    struct epoll_event event = {.events = on ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* Never drops the connection itself: it may be called from a loop over a topic's members. */
static void put(Conn *c, const char *data, size_t len)
{
    ssize_t n = c->out_len ? 0 : send(c->fd, data, len, MSG_NOSIGNAL);
    if (n == (ssize_t)len)
        return;
    if (n < 0)
        n = 0;
    if (c->out_len + len > BACKLOG_LIMIT) {
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    if (!c->out_len)
        want_write(c, true);
    c->out = realloc(c->out, c->out_len + len - (size_t)n);
    memcpy(c->out + c->out_len, data + n, len - (size_t)n);
    c->out_len += len - (size_t)n;
}

static void flush(Conn *c)
{
    ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (n <= 0)
        return;
    memmove(c->out, c->out + n, c->out_len - (size_t)n);
    c->out_len -= (size_t)n;
    if (!c->out_len) {
        free(c->out);
        c->out = NULL;
        want_write(c, false);
    }
}

static size_t frame(char *to, int opcode, const char *text, size_t len)
{
    size_t n = 0;
    to[n++] = (char)(0x80 | opcode);
    if (len < 126) {
        to[n++] = (char)len;
    } else {
        to[n++] = 126;
        to[n++] = (char)(len >> 8);
        to[n++] = (char)len;
    }
    memcpy(to + n, text, len);
    return n + len;
}

static void put_text(Conn *c, const char *text, size_t len)
{
    char wire[INPUT + 16];
    put(c, wire, frame(wire, 1, text, len));
}

static void publish(Topic *topic, const char *data, size_t len)
{
    char text[INPUT + 128], wire[INPUT + 256], event[INPUT + 256];
    int size = snprintf(text, sizeof text, "{\"type\":\"message\",\"topic\":\"%s\",\"data\":%.*s}", topic->name, (int)len, data);
    size_t wire_len = frame(wire, 1, text, (size_t)size);
    int event_len = snprintf(event, sizeof event, "event: message\ndata: %s\n\n", text);
    for (int i = 0; i < topic->count; i++) {
        Conn *c = topic->members[i];
        if (c->sse)
            put(c, event, (size_t)event_len);
        else
            put(c, wire, wire_len);
    }
}

static const char *after(const char *text, size_t len, const char *label)
{
    const char *at = memmem(text, len, label, strlen(label));
    return at ? at + strlen(label) : NULL;
}

static void command(Conn *c, const char *text, size_t len)
{
    const char *topic = after(text, len, "\"topic\":\""), *quote = topic ? strchr(topic, '"') : NULL;
    const char *data = after(text, len, "\"data\":");
    char reply[64];
    if (after(text, len, "\"type\":\"ping\"")) {
        const char *id = after(text, len, "\"id\":");
        int size = snprintf(reply, sizeof reply, "{\"type\":\"pong\",\"id\":%ld}", id ? strtol(id, NULL, 10) : 0);
        put_text(c, reply, (size_t)size);
    } else if (quote && data) {
        publish(find_topic(topic, (size_t)(quote - topic)), data, (size_t)(text + len - 1 - data));
    } else if (quote && !c->topic) {
        join(c, find_topic(topic, (size_t)(quote - topic)));
        put_text(c, "{\"type\":\"subscribed\"}", 21);
    }
}

static size_t read_frames(Conn *c, char *data, size_t len)
{
    size_t at = 0;
    while (len - at >= 6) {
        uint8_t *p = (uint8_t *)data + at;
        size_t size = p[1] & 127, head = 6;
        if (size == 126) {
            size = (size_t)p[2] << 8 | p[3];
            head = 8;
        }
        if (size > INPUT / 2) {
            drop(c);
            return len;
        }
        if (len - at < head + size)
            break;
        uint8_t *text = p + head, *mask = text - 4;
        for (size_t i = 0; i < size; i++)
            text[i] ^= mask[i & 3];
        at += head + size;
        int opcode = p[0] & 15;
        if (opcode == 8) {
            char wire[16];
            put(c, wire, frame(wire, 8, (char *)text, size < 2 ? 0 : 2));
            drop(c);
            return len;
        }
        if (opcode == 1) {
            char next = (char)text[size]; /* the buffer is one byte longer than what may be read into it */
            text[size] = 0;
            command(c, (char *)text, size);
            text[size] = (uint8_t)next;
        }
    }
    return at;
}

static size_t read_head(Conn *c, char *data, size_t len)
{
    char *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    char *key = strcasestr(data, "\r\nsec-websocket-key: "), *topic = strstr(data, "?topic="), reply[256];
    if (key) {
        char value[29];
        key += 21;
        accept_key(key, strcspn(key, "\r"), value);
        int size = snprintf(reply, sizeof reply, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                            "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", value);
        put(c, reply, (size_t)size);
    } else if (!strncmp(data, "GET /sse", 8) && topic) {
        static const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
                                  "Connection: close\r\n\r\nevent: welcome\ndata: {}\n\n";
        topic += 7;
        c->sse = true;
        join(c, find_topic(topic, strcspn(topic, " &\r")));
        put(c, head, strlen(head));
    } else {
        put(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 64);
        drop(c);
        return len;
    }
    c->upgraded = true;
    return (size_t)(end - data) + 4;
}

static void readable(Conn *c)
{
    static char buffer[INPUT + 1];
    if (c->in_len)
        memcpy(buffer, c->in, c->in_len);
    ssize_t n = recv(c->fd, buffer + c->in_len, INPUT - c->in_len, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            drop(c);
        return;
    }
    size_t len = c->in_len + (size_t)n, used = 0;
    if (!c->upgraded)
        used = read_head(c, buffer, len);
    if (c->fd >= 0 && c->upgraded && !c->sse)
        used += read_frames(c, buffer + used, len - used);
    free(c->in);
    c->in = NULL;
    c->in_len = c->sse || c->fd < 0 ? 0 : len - used;
    if (c->in_len) {
        c->in = malloc(c->in_len);
        memcpy(c->in, buffer + used, c->in_len);
    }
}

static void accept_all(int listener)
{
    static const int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        Conn *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv)
{
    static const int one = 1;
    static struct epoll_event events[256];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (argc != 2)
        return 2;
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("listen");
        return 1;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            Conn *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (c->fd >= 0 && events[i].events & EPOLLOUT)
                flush(c);
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                readable(c);
        }
        while (dead) {
            Conn *c = dead;
            dead = c->next_dead;
            free(c->in);
            free(c->out);
            free(c);
        }
    }
}
