/*
 * The load generator: one thread, one epoll, no allocation on the path of a message, so that it costs less
 * than any server it measures.
 *
 * It knows WebSocket and Server-Sent Events but no server: request heads, the texts to send after the
 * handshake, what confirms a subscription, how a publish looks, all come as --name=value arguments with
 * placeholders (%ROOM% %PAYLOAD% %ID% %CONN% %LENGTH% %VIEW%, which is one --view after the other, in turn
 * from connection to connection). Events go to standard output as one JSON object a line; the last one is
 * "result". Lines on standard input (or its end) release a hold.
 *
 * Modes
 *   deliver  subscribers in rooms, publishes either --inflight at a time (one is done when every reading
 *            subscriber has it) or --rate a second; optionally --stalled subscribers that stop reading,
 *            --watch-close=1: afterwards watch how the server says goodbye, and --latest=1: subscribers may
 *            miss what is not the newest
 *   storm    open, confirm, close, again; --parallel at a time
 *   idle     open, tell the parent, hold
 *   flood    --rate a second are opened, ask and are refused; at the lowest priority, so that another generator
 *            on the same core can measure meanwhile
 *   request  --request-inflight requests under way on each connection; a reply, in whatever order, sends
 *            the next. Which request it answers is told by the number behind --reply-id
 *
 * Every message carries "@@", its number in its room, its number in the run and its send time, in hex of
 * fixed width: loss, duplicates and latency are counted on what arrives, whatever envelope surrounds it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_STEPS 8
#define MAX_VIEWS 16
#define BATCH 256             /* epoll events a turn: small enough that new publishes leave soon */
#define READ_BYTES (256 * 1024)
#define TEXT_BYTES 8192       /* the longest text we ever send */
#define MARK_BYTES 34         /* "@@" + 8 + 8 + 16 hex digits */
#define SLOTS 8192            /* ring of publishes under way; far more than any --inflight */
#define STALLED_RCVBUF 4096   /* a stalled reader must not hide behind a large kernel buffer */

/* ------------------------------------------------------------------ options */

typedef struct {
    const char *head;
    const char *steps[MAX_STEPS]; /* "send:TEXT" or "expect:TEXT" */
    int step_count;
    bool sse, http;
} Script;

static struct {
    const char *mode;
    int port, connections, rooms, inflight, stalled, watch_close, parallel, sources, payload;
    int pub_connections, close_code, latest, request_inflight, view_count;
    double rate, warmup, duration, open_timeout, slot_timeout, drain_timeout, hold_timeout;
    Script sub, pub;
    const char *views[MAX_VIEWS];
    const char *pub_text, *request_text, *reply_marker, *reply_id, *auto_from, *auto_to;
    const char *gap_marker, *gap_count, *disconnect_marker;
} opt = {
    .mode = "deliver", .connections = 1, .rooms = 1, .inflight = 1, .parallel = 64, .sources = 1, .payload = 117,
    .pub_connections = 1, .warmup = 1, .duration = 3, .open_timeout = 60, .slot_timeout = 15,
    .drain_timeout = 15, .hold_timeout = 60, .request_inflight = 1, .pub_text = "", .request_text = "",
    .reply_marker = "", .reply_id = "",
};

static void emit(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void emit(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

static void die(const char *message)
{
    emit("{\"event\":\"error\",\"message\":\"%s\",\"errno\":%d}", message, errno);
    exit(1);
}

static void set_transport(Script *script, const char *value)
{
    script->sse = !strcmp(value, "sse");
    script->http = !strcmp(value, "http");
}

static void add_step(Script *script, const char *value)
{
    if (script->step_count == MAX_STEPS)
        die("too many steps");
    script->steps[script->step_count++] = value;
}

static void add_view(const char *value)
{
    if (opt.view_count == MAX_VIEWS)
        die("too many views");
    opt.views[opt.view_count++] = value;
}

static void parse_options(int argc, char **argv)
{
    const struct { const char *name; int *value; } integers[] = {
        {"port", &opt.port}, {"connections", &opt.connections}, {"rooms", &opt.rooms}, {"inflight", &opt.inflight},
        {"stalled", &opt.stalled}, {"watch-close", &opt.watch_close}, {"parallel", &opt.parallel},
        {"sources", &opt.sources}, {"payload", &opt.payload}, {"pub-connections", &opt.pub_connections},
        {"close-code", &opt.close_code}, {"latest", &opt.latest}, {"request-inflight", &opt.request_inflight},
    };
    const struct { const char *name; double *value; } numbers[] = {
        {"rate", &opt.rate}, {"warmup", &opt.warmup}, {"duration", &opt.duration},
        {"open-timeout", &opt.open_timeout}, {"slot-timeout", &opt.slot_timeout},
        {"drain-timeout", &opt.drain_timeout}, {"hold-timeout", &opt.hold_timeout},
    };
    const struct { const char *name; const char **value; } texts[] = {
        {"mode", &opt.mode}, {"sub-head", &opt.sub.head}, {"pub-head", &opt.pub.head}, {"pub-text", &opt.pub_text},
        {"request-text", &opt.request_text}, {"reply-marker", &opt.reply_marker}, {"reply-id", &opt.reply_id},
        {"auto-from", &opt.auto_from}, {"auto-to", &opt.auto_to}, {"gap-marker", &opt.gap_marker},
        {"gap-count", &opt.gap_count}, {"disconnect-marker", &opt.disconnect_marker},
    };
    for (int i = 1; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        if (strncmp(argv[i], "--", 2) || !equals)
            die("arguments look like --name=value");
        *equals = 0;
        const char *name = argv[i] + 2, *value = equals + 1;
        bool known = true;
        if (!strcmp(name, "sub-transport")) set_transport(&opt.sub, value);
        else if (!strcmp(name, "pub-transport")) set_transport(&opt.pub, value);
        else if (!strcmp(name, "sub-step")) add_step(&opt.sub, value);
        else if (!strcmp(name, "pub-step")) add_step(&opt.pub, value);
        else if (!strcmp(name, "view")) add_view(value);
        else known = false;
        for (size_t k = 0; k < sizeof integers / sizeof *integers; k++)
            if (!strcmp(name, integers[k].name)) { *integers[k].value = atoi(value); known = true; }
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
            if (!strcmp(name, numbers[k].name)) { *numbers[k].value = atof(value); known = true; }
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
            if (!strcmp(name, texts[k].name)) { *texts[k].value = value; known = true; }
        if (!known)
            die("unknown argument");
    }
    if (!opt.port || !opt.sub.head || opt.connections < 1 || opt.rooms < 1 || opt.payload < MARK_BYTES
        || opt.payload > TEXT_BYTES / 4 || opt.inflight > SLOTS / 2 || opt.stalled >= opt.connections
        || opt.request_inflight < 1)
        die("arguments out of range");
}

/* ------------------------------------------------------------------ state */

typedef enum { CLOSED, CONNECTING, HEAD, SCRIPT, OPEN } State;
typedef enum { SUBSCRIBER, PUBLISHER, REQUESTER, VISITOR, INTRUDER } Role;
typedef enum { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_END } ChunkPhase;

typedef struct {
    uint64_t id, sent; /* id 0: answered */
} Request;

typedef struct {
    int fd, index, room, step;
    State state;
    Role role;
    Script *script;
    bool stalled, busy, told, closing, writing;
    int close_code;
    bool chunked;
    ChunkPhase chunk_phase;
    size_t chunk_left;
    char *in, *out;                /* an incomplete frame; bytes the socket did not take */
    size_t in_len, out_len, out_cap;
    uint32_t high;                 /* highest room number received */
    uint64_t seen;                 /* bit n: high - n was received (publishers on several connections reorder) */
    uint64_t received, window_received;
    uint64_t started;
    Request *requests;             /* --request-inflight of them */
} Conn;

typedef struct {
    uint32_t number;
    int remaining;
    uint64_t sent;
} Slot;

static struct {
    int epoll, opening, open, open_failed, lost_connections;
    Conn *conns, *pubs;
    bool released, orphaned;       /* the parent wrote to our standard input; it is gone */
    bool measuring;
    uint64_t window_start, window_end;
    /* deliver */
    uint32_t *room_published, *room_readers;
    Slot slots[SLOTS];
    uint32_t published, oldest;
    int under_way, next_room, next_pub;
    bool publishing;
    uint64_t arrived, window_arrived, window_published, duplicates, stray, timed_out, gaps, gap_total;
    /* storm, request, flood */
    uint64_t completed, window_completed, failed, refused, last_id;
    double cpu_start;
} run;

static char read_buffer[READ_BYTES];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
         + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static uint64_t after(double seconds)
{
    return now_ns() + (uint64_t)(seconds * 1e9);
}

/* ------------------------------------------------------------------ latency histogram: 64 steps per octave */

#define STEPS_LOG 6
static uint64_t histogram[64 << STEPS_LOG];
static uint64_t histogram_count, histogram_max;

static void histogram_add(uint64_t ns)
{
    int octave = 63 - __builtin_clzll(ns | 64);
    size_t cell = ((size_t)(octave - STEPS_LOG + 1) << STEPS_LOG) | ((ns >> (octave - STEPS_LOG)) & 63);
    histogram[cell]++;
    histogram_count++;
    if (ns > histogram_max)
        histogram_max = ns;
}

static double histogram_ms(double quantile)
{
    uint64_t want = (uint64_t)(quantile * (double)histogram_count), sum = 0;
    for (size_t cell = 0; cell < sizeof histogram / sizeof *histogram; cell++) {
        sum += histogram[cell];
        if (sum > want) {
            int octave = (int)(cell >> STEPS_LOG) + STEPS_LOG - 1;
            uint64_t low = (64ull + (cell & 63)) << (octave - STEPS_LOG);
            return (double)low / 1e6;
        }
    }
    return 0;
}

/* ------------------------------------------------------------------ sockets */

/* Reading always; writing only while bytes wait. */
static void want_events(Conn *c)
{
    struct epoll_event event = {.events = c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    if (c->writing == (c->out_len > 0))
        return;
    c->writing = c->out_len > 0;
    epoll_ctl(run.epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void conn_close(Conn *c)
{
    if (c->state == CLOSED)
        return;
    if (c->state == OPEN)
        run.open--;
    else
        run.opening--;
    close(c->fd);
    free(c->in);
    c->in = NULL;
    c->in_len = c->out_len = 0;
    c->fd = -1;
    c->state = CLOSED;
}

/* The other side went away, or spoke nonsense. */
static void conn_lost(Conn *c)
{
    if (c->state != OPEN)
        run.open_failed++;
    else if (!c->closing)
        run.lost_connections++;
    if (c->role == VISITOR || c->role == INTRUDER)
        run.failed++;
    conn_close(c);
}

static void conn_flush(Conn *c)
{
    size_t done = 0;
    while (done < c->out_len) {
        ssize_t n = send(c->fd, c->out + done, c->out_len - done, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == EINTR)
                break;
            done = c->out_len; /* the read side reports the loss */
            break;
        }
        done += (size_t)n;
    }
    memmove(c->out, c->out + done, c->out_len - done);
    c->out_len -= done;
    want_events(c);
}

static void conn_queue(Conn *c, const void *data, size_t len)
{
    if (c->out_len + len > c->out_cap) {
        c->out_cap = (c->out_len + len) * 2;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out)
            die("out of memory");
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

static void conn_send(Conn *c, const void *data, size_t len)
{
    ssize_t n = 0;
    if (!c->out_len) {
        n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n == (ssize_t)len)
            return;
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR)
                return; /* the read side reports the loss */
            n = 0;
        }
    }
    conn_queue(c, (const char *)data + n, len - (size_t)n);
    want_events(c);
}

static void conn_open(Conn *c)
{
    static const int one = 1;
    static uint32_t opened;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket() failed (descriptor limit?)");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->stalled) {
        int small = STALLED_RCVBUF;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    struct sockaddr_in address = {.sin_family = AF_INET};
    /* Each source address brings its own set of local ports; an intruder's is never that of the others. */
    if (opt.sources > 1 || c->role == INTRUDER) {
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + opened++ % (uint32_t)opt.sources);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&address, sizeof address))
            die("bind() to a source address failed");
    }
    address.sin_port = htons((uint16_t)opt.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->state = CONNECTING;
    c->step = 0;
    c->chunked = false;
    c->writing = true;
    c->started = now_ns();
    run.opening++;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(run.epoll, EPOLL_CTL_ADD, c->fd, &event);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        conn_lost(c);
}

/* ------------------------------------------------------------------ texts and frames */

static size_t expand(char *to, const char *template, const Conn *c, int room, const char *payload, size_t length)
{
    size_t n = 0;
    run.last_id++; /* one for the whole text, however often it says it */
    for (const char *p = template; *p;) {
        const char *name = NULL;
        if (*p == '%') {
            if (!strncmp(p, name = "%ROOM%", 6)) n += (size_t)sprintf(to + n, "%d", room);
            else if (!strncmp(p, name = "%CONN%", 6)) n += (size_t)sprintf(to + n, "%d", c->index);
            else if (!strncmp(p, name = "%LENGTH%", 8)) n += (size_t)sprintf(to + n, "%zu", length);
            else if (!strncmp(p, name = "%ID%", 4))
                n += (size_t)sprintf(to + n, "%llu", (unsigned long long)run.last_id);
            else if (!strncmp(p, name = "%VIEW%", 6))
                n += (size_t)sprintf(to + n, "%s", opt.view_count ? opt.views[c->index % opt.view_count] : "");
            else if (!strncmp(p, name = "%PAYLOAD%", 9)) n += (size_t)sprintf(to + n, "%s", payload ? payload : "");
            else name = NULL;
        }
        if (name) p += strlen(name);
        else to[n++] = *p++;
        if (n > TEXT_BYTES - 2048 - 32)
            die("text too long");
    }
    return n;
}

/* Masks in place after the header; `to` must hold 14 more bytes than the text. */
static size_t frame(char *to, int opcode, const char *text, size_t len)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t n = 0;
    to[n++] = (char)(0x80 | opcode);
    if (len < 126) {
        to[n++] = (char)(0x80 | len);
    } else {
        to[n++] = (char)(0x80 | 126);
        to[n++] = (char)(len >> 8);
        to[n++] = (char)len;
    }
    memcpy(to + n, mask, 4);
    n += 4;
    for (size_t i = 0; i < len; i++)
        to[n + i] = (char)(text[i] ^ mask[i & 3]);
    return n + len;
}

static void send_frame(Conn *c, int opcode, const char *text, size_t len)
{
    char wire[TEXT_BYTES + 16];
    conn_send(c, wire, frame(wire, opcode, text, len));
}

static void send_text(Conn *c, const char *template)
{
    char text[TEXT_BYTES];
    send_frame(c, 1, text, expand(text, template, c, c->room, NULL, 0));
}

static void send_head(Conn *c)
{
    char text[TEXT_BYTES];
    conn_send(c, text, expand(text, c->script->head, c, c->room, NULL, 0));
}

/* ------------------------------------------------------------------ publishing */

static Conn *free_publisher(void)
{
    for (int tried = 0; tried < opt.pub_connections; tried++) {
        Conn *c = &run.pubs[run.next_pub++ % opt.pub_connections];
        if (c->state == OPEN && !c->busy)
            return c;
    }
    return NULL;
}

static bool publish(uint64_t sent)
{
    static char payload[TEXT_BYTES];
    char text[TEXT_BYTES], wire[TEXT_BYTES + 16];
    Conn *c = free_publisher();
    if (!c)
        return false;
    int room = run.next_room++ % opt.rooms;
    uint32_t number = ++run.published;
    if (!payload[0])
        memset(payload, 'x', (size_t)opt.payload);
    int marked = sprintf(payload, "@@%08x%08x%016llx", ++run.room_published[room], number, (unsigned long long)sent);
    payload[marked] = opt.payload > marked ? 'x' : 0;
    Slot *slot = &run.slots[number % SLOTS];
    *slot = (Slot){number, (int)run.room_readers[room], sent};
    run.under_way++;
    if (run.measuring)
        run.window_published++;
    size_t len = expand(text, opt.pub_text, c, room, payload, 0);
    if (c->script->http) {
        c->busy = true;
        size_t head = expand(wire, c->script->head, c, room, NULL, len);
        conn_queue(c, wire, head);
        conn_queue(c, text, len);
    } else {
        conn_queue(c, wire, frame(wire, 1, text, len));
    }
    return true; /* written at the end of the turn: publishes that become due together share a write */
}

static void publish_due(void)
{
    while (run.publishing && run.under_way < opt.inflight && publish(now_ns()))
        ;
    for (int i = 0; run.pubs && i < opt.pub_connections; i++)
        if (run.pubs[i].out_len && run.pubs[i].state == OPEN)
            conn_flush(&run.pubs[i]);
}

static void expire_slots(void)
{
    uint64_t limit = now_ns() - (uint64_t)(opt.slot_timeout * 1e9);
    for (; run.oldest <= run.published; run.oldest++) {
        Slot *slot = &run.slots[run.oldest % SLOTS];
        if (slot->number != run.oldest || slot->remaining <= 0)
            continue;
        if (slot->sent > limit)
            return;
        slot->number = 0;
        run.timed_out++;
        run.under_way--;
    }
}

/* ------------------------------------------------------------------ what arrives */

static uint64_t hex(const char *p, int digits)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        unsigned char ch = (unsigned char)p[i];
        value = value << 4 | (uint64_t)((ch & 15) + (ch >> 6) * 9);
    }
    return value;
}

static void delivered(Conn *c, const char *mark, uint64_t now)
{
    uint32_t room_number = (uint32_t)hex(mark + 2, 8), number = (uint32_t)hex(mark + 10, 8);
    uint64_t sent = hex(mark + 18, 16);
    if (room_number == 0 || room_number > run.room_published[c->room]) {
        run.stray++; /* another room's message, or one of an earlier run */
        return;
    }
    if (room_number > c->high) {
        uint32_t step = room_number - c->high;
        c->seen = step > 63 ? 1 : c->seen << step | 1;
        c->high = room_number;
    } else {
        uint32_t back = c->high - room_number;
        if (opt.latest || back > 63 || c->seen >> back & 1) { /* what is older than the newest is a fault as well */
            run.duplicates++;
            return;
        }
        c->seen |= 1ull << back;
    }
    c->received++;
    if (c->stalled)
        return;
    run.arrived++;
    if (run.measuring) {
        run.window_arrived++;
        c->window_received++;
    }
    if (sent >= run.window_start && run.window_start && (!run.window_end || sent < run.window_end))
        histogram_add(now > sent ? now - sent : 0);
    Slot *slot = &run.slots[number % SLOTS];
    if (slot->number == number && --slot->remaining == 0) {
        slot->number = 0;
        run.under_way--;
    }
}

/* Finds every mark; returns how far the text has been used up (an incomplete mark is kept). */
static size_t scan_marks(Conn *c, const char *text, size_t len, uint64_t now, bool *found)
{
    static size_t hint; /* envelopes rarely change their length: look there first */
    const char *p = text, *end = text + len;
    if (hint + MARK_BYTES <= len && text[hint] == '@' && text[hint + 1] == '@')
        p = text + hint;
    while ((p = memchr(p, '@', (size_t)(end - p)))) {
        if (end - p < MARK_BYTES)
            return (size_t)(p - text);
        if (p[1] != '@') {
            p++;
            continue;
        }
        if (p - text < 512 && !*found)
            hint = (size_t)(p - text);
        *found = true;
        delivered(c, p, now);
        p += MARK_BYTES;
    }
    return len;
}

static bool contains(const char *text, size_t len, const char *marker)
{
    return marker && *marker && memmem(text, len, marker, strlen(marker));
}

static void count_gap(const char *text, size_t len)
{
    const char *at = memmem(text, len, opt.gap_count, strlen(opt.gap_count));
    run.gaps++;
    if (at)
        run.gap_total += strtoull(at + strlen(opt.gap_count), NULL, 10);
}

static void send_request(Conn *c, Request *request)
{
    request->sent = now_ns();
    send_text(c, opt.request_text);
    request->id = run.last_id;
    run.under_way++;
}

static void answered(Conn *c, const char *text, size_t len, uint64_t now)
{
    const char *at = memmem(text, len, opt.reply_id, strlen(opt.reply_id));
    uint64_t id = at ? strtoull(at + strlen(opt.reply_id), NULL, 10) : 0;
    Request *request = c->requests, *end = request + opt.request_inflight;
    while (id && request < end && request->id != id)
        request++;
    if (!id || request == end) {
        run.stray++; /* answered before, or never asked */
        return;
    }
    request->id = 0;
    run.under_way--;
    run.completed++;
    if (run.measuring) {
        run.window_completed++;
        histogram_add(now - request->sent);
    }
    if (run.publishing)
        send_request(c, request);
}

static void conn_confirmed(Conn *c)
{
    run.opening--;
    run.open++;
    c->state = OPEN;
    if (c->role == VISITOR) {
        uint64_t now = now_ns();
        run.completed++;
        if (run.measuring) {
            run.window_completed++;
            histogram_add(now - c->started);
        }
        if (!c->script->sse)
            send_frame(c, 8, "\x03\xe8", 2);
        conn_close(c);
    }
}

/* Sends what may be sent, stops at the next text to wait for. */
static void script_advance(Conn *c)
{
    while (c->step < c->script->step_count) {
        const char *step = c->script->steps[c->step];
        if (strncmp(step, "send:", 5))
            return;
        send_text(c, step + 5);
        c->step++;
    }
    conn_confirmed(c);
}

static bool script_heard(Conn *c, const char *text, size_t len)
{
    const char *step = c->script->steps[c->step];
    if (!contains(text, len, step + strlen("expect:")))
        return false;
    c->step++;
    script_advance(c);
    return true;
}

static void on_text(Conn *c, const char *text, size_t len, uint64_t now)
{
    if (opt.auto_from && len == strlen(opt.auto_from) && !memcmp(text, opt.auto_from, len)) {
        send_text(c, opt.auto_to);
    } else if (c->state == SCRIPT) {
        script_heard(c, text, len);
    } else if (c->role == SUBSCRIBER) {
        bool found = false;
        scan_marks(c, text, len, now, &found);
        if (!found && contains(text, len, opt.gap_marker))
            count_gap(text, len);
        if (!found && contains(text, len, opt.disconnect_marker))
            c->told = true;
    } else if (c->role == REQUESTER && contains(text, len, opt.reply_marker)) {
        answered(c, text, len, now);
    }
}

static size_t read_frames(Conn *c, char *data, size_t len, uint64_t now)
{
    size_t at = 0;
    while (c->state >= SCRIPT && len - at >= 2) {
        unsigned char *p = (unsigned char *)data + at;
        size_t size = p[1] & 127, head = 2;
        if (size == 126) {
            if (len - at < 4)
                break;
            size = (size_t)p[2] << 8 | p[3];
            head = 4;
        } else if (size == 127) {
            if (len - at < 10)
                break;
            size = 0;
            for (int i = 2; i < 10; i++)
                size = size << 8 | p[i];
            head = 10;
        }
        if (size > READ_BYTES / 2 || !(p[0] & 0x80)) { /* no server here fragments; we do not join fragments */
            conn_lost(c);
            return len;
        }
        if (len - at < head + size)
            break;
        char *text = (char *)p + head;
        int opcode = p[0] & 15;
        at += head + size;
        if (opcode == 1 || opcode == 2) {
            on_text(c, text, size, now);
        } else if (opcode == 9) {
            send_frame(c, 10, text, size);
        } else if (opcode == 8) {
            c->close_code = size >= 2 ? (unsigned char)text[0] << 8 | (unsigned char)text[1] : 1005;
            c->closing = true;
            send_frame(c, 8, text, size < 2 ? 0 : 2);
        }
    }
    return at;
}

/* Takes chunked framing out of the bytes, in place; plain bodies pass through. */
static size_t unchunk(Conn *c, char *data, size_t len)
{
    if (!c->chunked)
        return len;
    size_t from = 0, to = 0;
    while (from < len) {
        if (c->chunk_phase == CHUNK_DATA) {
            size_t take = len - from < c->chunk_left ? len - from : c->chunk_left;
            memmove(data + to, data + from, take);
            from += take;
            to += take;
            c->chunk_left -= take;
            if (!c->chunk_left)
                c->chunk_phase = CHUNK_END;
            continue;
        }
        char ch = data[from++];
        if (ch == '\n') {
            bool sized = c->chunk_phase != CHUNK_END;
            c->chunk_phase = sized ? CHUNK_DATA : CHUNK_SIZE;
            if (sized && !c->chunk_left)
                break; /* the last chunk: the server ends the stream */
        } else if (ch == ';') {
            c->chunk_phase = CHUNK_EXTENSION;
        } else if (c->chunk_phase == CHUNK_SIZE && ch != '\r') {
            c->chunk_left = c->chunk_left << 4 | hex(&ch, 1);
        }
    }
    return to;
}

static size_t read_events(Conn *c, char *data, size_t len, uint64_t now)
{
    bool found = false;
    if (c->state == SCRIPT)
        return script_heard(c, data, len) ? len : 0;
    return scan_marks(c, data, len, now, &found);
}

/* The answer to an HTTP publish: only its end matters. */
static size_t read_reply(Conn *c, char *data, size_t len)
{
    char *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    char *length = strcasestr(data, "\r\ncontent-length:");
    bool bad = strncmp(data, "HTTP/1.1 2", 10) != 0;
    size_t total = (size_t)(end - data) + 4 + (length ? strtoul(length + 17, NULL, 10) : 0);
    *end = '\r';
    if (bad)
        die("a publish was refused");
    if (len < total)
        return 0;
    c->busy = false;
    return total;
}

static size_t read_head(Conn *c, char *data, size_t len)
{
    char *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    const char *expected = c->script->sse ? "200" : "101";
    bool right = len > 12 && !strncmp(data, "HTTP/1.", 7) && !strncmp(data + 9, expected, 3);
    c->chunked = strcasestr(data, "transfer-encoding: chunked") != NULL;
    c->chunk_phase = CHUNK_SIZE;
    c->chunk_left = 0;
    if (c->role == INTRUDER) {
        run.refused += !right;
        run.completed += right;
        conn_close(c);
        return len;
    }
    if (!right) {
        conn_lost(c);
        return len;
    }
    c->state = SCRIPT;
    script_advance(c);
    return (size_t)(end - data) + 4;
}

static void on_readable(Conn *c)
{
    size_t kept = c->in_len;
    if (kept)
        memcpy(read_buffer, c->in, kept);
    ssize_t n = recv(c->fd, read_buffer + kept, READ_BYTES - kept, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            conn_lost(c);
        return;
    }
    uint64_t now = now_ns();
    size_t len = kept + (size_t)n, raw = kept, used = 0;
    if (c->state == HEAD) {
        raw = used = read_head(c, read_buffer, len);
        if (c->state == CLOSED)
            return;
    }
    if (c->state != HEAD && len > used) {
        if (c->script->http) {
            used += read_reply(c, read_buffer + used, len - used);
        } else if (c->script->sse) {
            len = raw + unchunk(c, read_buffer + raw, len - raw);
            used += read_events(c, read_buffer + used, len - used, now);
        } else {
            used += read_frames(c, read_buffer + used, len - used, now);
        }
    }
    if (c->state == CLOSED)
        return;
    c->in_len = len - used;
    if (c->in_len == READ_BYTES)
        die("a message does not fit the read buffer");
    if (!c->in_len) {
        free(c->in);
        c->in = NULL;
        return;
    }
    c->in = realloc(c->in, c->in_len);
    if (!c->in)
        die("out of memory");
    memcpy(c->in, read_buffer + used, c->in_len);
}

static void on_connected(Conn *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        conn_lost(c);
        return;
    }
    want_events(c);
    c->state = HEAD;
    if (c->script->http)
        conn_confirmed(c); /* its first request is its first publish */
    else
        send_head(c);
}

static void turn(uint64_t until)
{
    static struct epoll_event events[BATCH];
    uint64_t now = now_ns();
    int wait = until <= now ? 0 : (int)((until - now) / 1000000);
    int count = epoll_wait(run.epoll, events, BATCH, wait < 100 ? wait : 100);
    for (int i = 0; i < count; i++) {
        Conn *c = events[i].data.ptr;
        if (!c) {
            char line[64];
            run.released = true;
            if (read(0, line, sizeof line) <= 0) {
                run.orphaned = true;
                epoll_ctl(run.epoll, EPOLL_CTL_DEL, 0, NULL);
            }
            continue;
        }
        if (c->state == CLOSED)
            continue;
        if (c->state == CONNECTING) {
            on_connected(c);
            continue;
        }
        if (events[i].events & EPOLLOUT)
            conn_flush(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            on_readable(c);
    }
    publish_due();
}

/* ------------------------------------------------------------------ modes */

static Conn *make_conns(int count, Role role, Script *script)
{
    Conn *conns = calloc((size_t)count, sizeof *conns);
    if (!conns)
        die("out of memory");
    for (int i = 0; i < count; i++)
        conns[i] = (Conn){.fd = -1, .index = i, .room = i % opt.rooms, .role = role, .script = script};
    return conns;
}

static void open_all(Conn *conns, int count)
{
    uint64_t deadline = after(opt.open_timeout);
    int next = 0, target = run.open + count;
    while (run.open < target && !run.open_failed) {
        while (next < count && run.opening < opt.parallel)
            conn_open(&conns[next++]);
        turn(deadline);
        if (now_ns() > deadline)
            die("not every connection was confirmed in time");
    }
    if (run.open_failed)
        die("a connection was refused or not confirmed");
}

static void window_begin(void)
{
    run.window_arrived = run.window_published = run.window_completed = 0;
    memset(histogram, 0, sizeof histogram);
    histogram_count = histogram_max = 0;
    run.cpu_start = cpu_seconds();
    run.window_start = now_ns();
    run.measuring = true;
    emit("{\"event\":\"start\"}");
}

static void window_finish(void)
{
    run.window_end = now_ns();
    run.measuring = false;
    emit("{\"event\":\"end\",\"generator_cpu\":%.3f}", cpu_seconds() - run.cpu_start);
}

static double window_seconds(void)
{
    return (double)(run.window_end - run.window_start) / 1e9;
}

/* Keeps serving the connections until the parent writes a line. */
static void hold(const char *event)
{
    uint64_t deadline = after(opt.hold_timeout);
    run.released = false;
    emit("{\"event\":\"%s\",\"open\":%d}", event, run.open);
    while (!run.released && !run.orphaned && now_ns() < deadline)
        turn(deadline);
}

static void run_until(uint64_t end)
{
    while (now_ns() < end) {
        turn(end);
        expire_slots();
    }
}

/* A send time is the time a publish was due, not when we came to it: a late generator must show as latency. */
static void run_paced(uint64_t end)
{
    uint64_t step = (uint64_t)(1e9 / opt.rate), due = now_ns();
    while (now_ns() < end) {
        for (; due <= now_ns() && due < end; due += step)
            publish(due);
        publish_due();
        turn(due < end ? due : end);
    }
}

/* Whether everybody has what is theirs: all of it, or the newest where that is what counts. */
static bool settled(void)
{
    if (!opt.latest)
        return run.under_way <= 0;
    for (int i = opt.stalled; i < opt.connections; i++)
        if (run.conns[i].high != run.room_published[run.conns[i].room])
            return false;
    return true;
}

static void drain(void)
{
    uint64_t deadline = after(opt.drain_timeout);
    while (!settled() && now_ns() < deadline)
        turn(deadline);
    uint64_t linger = after(0.1); /* a duplicate comes after the first copy */
    while (now_ns() < linger)
        turn(linger);
}

static void resume_stalled(void)
{
    for (int i = 0; i < opt.stalled; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &run.conns[i]};
        epoll_ctl(run.epoll, EPOLL_CTL_ADD, run.conns[i].fd, &event);
    }
    uint64_t deadline = after(opt.drain_timeout), quiet = after(1);
    for (uint64_t before = 0; now_ns() < quiet && now_ns() < deadline;) {
        uint64_t sum = run.gap_total;
        turn(after(0.05));
        for (int i = 0; i < opt.stalled; i++)
            sum += run.conns[i].received + run.conns[i].in_len;
        if (sum != before)
            quiet = after(1);
        before = sum;
    }
}

static void watch_closing(void)
{
    uint64_t begin, deadline;
    int reading = opt.connections - opt.stalled, told = 0, coded = 0, closed = 0;
    hold("closing");
    begin = now_ns();
    deadline = after(opt.hold_timeout);
    do {
        turn(deadline);
        closed = 0;
        for (int i = opt.stalled; i < opt.connections; i++)
            closed += run.conns[i].state == CLOSED;
    } while (closed < reading && now_ns() < deadline);
    for (int i = opt.stalled; i < opt.connections; i++) {
        told += run.conns[i].told;
        coded += run.conns[i].close_code == opt.close_code;
    }
    emit("{\"event\":\"closed\",\"reading\":%d,\"told\":%d,\"coded\":%d,\"closed\":%d,\"seconds\":%.3f}", reading, told,
         coded, closed, (double)(now_ns() - begin) / 1e9);
}

static void deliver(void)
{
    run.room_published = calloc((size_t)opt.rooms, sizeof *run.room_published);
    run.room_readers = calloc((size_t)opt.rooms, sizeof *run.room_readers);
    run.conns = make_conns(opt.connections, SUBSCRIBER, &opt.sub);
    for (int i = 0; i < opt.connections; i++) {
        run.conns[i].stalled = i < opt.stalled;
        run.room_readers[run.conns[i].room] += i >= opt.stalled;
    }
    open_all(run.conns, opt.connections);
    Conn *pubs = make_conns(opt.pub_connections, PUBLISHER, &opt.pub);
    open_all(pubs, opt.pub_connections);
    run.pubs = pubs;
    run.oldest = 1;
    for (int i = 0; i < opt.stalled; i++)
        epoll_ctl(run.epoll, EPOLL_CTL_DEL, run.conns[i].fd, NULL);
    emit("{\"event\":\"ready\",\"open\":%d}", run.open);

    if (opt.rate > 0) {
        run_paced(after(opt.warmup));
        window_begin();
        run_paced(after(opt.duration));
    } else {
        run.publishing = true;
        run_until(after(opt.warmup));
        window_begin();
        run_until(after(opt.duration));
        run.publishing = false;
    }
    window_finish();
    drain();

    uint64_t expected = 0, stalled_expected = 0, stalled_received = 0, most = 0;
    int behind = 0;
    for (int i = 0; i < opt.connections; i++) {
        uint32_t published = run.room_published[run.conns[i].room];
        *(i < opt.stalled ? &stalled_expected : &expected) += published;
        behind += i >= opt.stalled && run.conns[i].high != published;
        if (run.conns[i].window_received > most)
            most = run.conns[i].window_received;
    }
    if (opt.watch_close) {
        watch_closing();
    } else if (opt.stalled) {
        hold("settled");
        resume_stalled();
        hold("resumed");
        for (int i = 0; i < opt.stalled; i++)
            stalled_received += run.conns[i].received;
    }
    emit("{\"event\":\"result\",\"seconds\":%.4f,\"deliveries\":%llu,\"publishes\":%llu,\"published_total\":%u,"
         "\"expected\":%llu,\"received\":%llu,\"lost\":%lld,\"duplicates\":%llu,\"stray\":%llu,\"timed_out\":%llu,"
         "\"lost_connections\":%d,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f,\"max_ms\":%.3f,"
         "\"behind\":%d,\"most\":%llu,\"stalled_expected\":%llu,\"stalled_received\":%llu,\"gaps\":%llu,"
         "\"gap_total\":%llu}",
         window_seconds(), (unsigned long long)run.window_arrived, (unsigned long long)run.window_published,
         run.published, (unsigned long long)expected, (unsigned long long)run.arrived,
         (long long)(expected - run.arrived), (unsigned long long)run.duplicates, (unsigned long long)run.stray,
         (unsigned long long)run.timed_out, run.lost_connections, histogram_ms(0.5), histogram_ms(0.99),
         histogram_ms(0.999), (double)histogram_max / 1e6, behind, (unsigned long long)most,
         (unsigned long long)stalled_expected, (unsigned long long)stalled_received, (unsigned long long)run.gaps,
         (unsigned long long)run.gap_total);
}

static void emit_completed(void)
{
    emit("{\"event\":\"result\",\"seconds\":%.4f,\"completed\":%llu,\"failed\":%llu,\"unanswered\":%d,\"stray\":%llu,"
         "\"lost_connections\":%d,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f,\"max_ms\":%.3f}",
         window_seconds(), (unsigned long long)run.window_completed, (unsigned long long)run.failed, run.under_way,
         (unsigned long long)run.stray, run.lost_connections, histogram_ms(0.5), histogram_ms(0.99),
         histogram_ms(0.999), (double)histogram_max / 1e6);
}

static void storm_until(uint64_t end)
{
    while (now_ns() < end) {
        for (int i = 0; i < opt.parallel; i++)
            if (run.conns[i].state == CLOSED)
                conn_open(&run.conns[i]);
        turn(end);
        if (run.failed > 1000)
            die("more than 1000 connections failed");
    }
}

static void storm(void)
{
    run.conns = make_conns(opt.parallel, VISITOR, &opt.sub);
    storm_until(after(opt.warmup));
    window_begin();
    storm_until(after(opt.duration));
    window_finish();
    emit_completed();
}

static void flood_until(uint64_t end)
{
    uint64_t step = (uint64_t)(1e9 / opt.rate), due = now_ns();
    for (int next = 0; now_ns() < end;) {
        for (int tried = 0; due <= now_ns() && tried < opt.parallel; tried++) {
            Conn *c = &run.conns[next++ % opt.parallel];
            if (c->state != CLOSED)
                continue;
            conn_open(c);
            due += step;
        }
        if (due < now_ns())
            due = now_ns(); /* all are under way: what could not be sent is not made up for */
        turn(after(0.002)); /* less would be no waiting at all, with an epoll that counts milliseconds */
    }
}

static void flood(void)
{
    if (nice(19) == -1 && errno)
        die("nice() failed");
    if (opt.rate <= 0)
        die("a flood needs a rate");
    run.conns = make_conns(opt.parallel, INTRUDER, &opt.sub);
    flood_until(after(opt.warmup));
    run.refused = run.completed = run.failed = 0;
    window_begin();
    flood_until(after(opt.duration));
    window_finish();
    emit("{\"event\":\"result\",\"seconds\":%.4f,\"refused\":%llu,\"unanswered\":%llu,\"let_in\":%llu}",
         window_seconds(), (unsigned long long)run.refused, (unsigned long long)run.failed,
         (unsigned long long)run.completed);
}

static void request(void)
{
    run.conns = make_conns(opt.connections, REQUESTER, &opt.sub);
    open_all(run.conns, opt.connections);
    emit("{\"event\":\"ready\",\"open\":%d}", run.open);
    opt.inflight = 0; /* `publishing` only keeps the requests coming */
    run.publishing = true;
    for (int i = 0; i < opt.connections; i++) {
        Conn *c = &run.conns[i];
        c->requests = calloc((size_t)opt.request_inflight, sizeof *c->requests);
        if (!c->requests)
            die("out of memory");
        for (int k = 0; k < opt.request_inflight; k++)
            send_request(c, &c->requests[k]);
    }
    uint64_t end = after(opt.warmup);
    while (now_ns() < end)
        turn(end);
    window_begin();
    end = after(opt.duration);
    while (now_ns() < end)
        turn(end);
    window_finish();
    run.publishing = false;
    drain();
    emit_completed();
}

static void idle(void)
{
    run.conns = make_conns(opt.connections, SUBSCRIBER, &opt.sub);
    open_all(run.conns, opt.connections);
    run.room_published = calloc((size_t)opt.rooms, sizeof *run.room_published);
    hold("ready");
    emit("{\"event\":\"result\",\"open\":%d,\"lost_connections\":%d}", run.open, run.lost_connections);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    parse_options(argc, argv);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, 0, &event) && errno != EPERM)
        die("epoll on standard input failed");
    if (!strcmp(opt.mode, "deliver")) deliver();
    else if (!strcmp(opt.mode, "storm")) storm();
    else if (!strcmp(opt.mode, "request")) request();
    else if (!strcmp(opt.mode, "idle")) idle();
    else if (!strcmp(opt.mode, "flood")) flood();
    else die("unknown mode");
    return 0;
}
