/* Load for one etcd member, over raw HTTP/2 frames: what h2load cannot do.

   It sends unary calls with a different key in each, closed loop (every stream always has one call
   in flight) or open loop (so many a second, whatever the server does; latency counts from the
   moment when a call was due). Beside that it can hold watch streams and count every event of every
   watcher, or hold streams that send their next message when the last one is answered.

   One thread, one epoll, no copy of what it only counts: it must never be the slower side. Answers
   are not decoded. A call succeeded if it got DATA before the HEADERS that ended it: gRPC sends an
   error as HEADERS alone. Any breach of the protocol ends the program.

   Build: cc -O2 -o load load.c. Options: see `options` below. The result is one JSON line. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };
enum { DIGITS = 10, SLOTS = 8192, READ_SIZE = 1 << 18, VARINT_MAX = 5, MARKS = 1024, FRAME_MAX = 16384 };
#define WINDOW 0x7fffffff
#define REPLENISH (1 << 28)  /* received bytes after which the window is granted again */
#define STALL_NS 60000000000LL

enum kind { UNARY, WATCH, ECHO };

/* One call in flight, found by its stream id. */
struct slot {
    uint32_t stream;
    bool answered;
    int64_t due, number;
};

/* Where a stream's reader is inside the length-prefixed messages, at any byte boundary. */
struct reader {
    enum { PREFIX, TAG, VARINT, LENGTH, BODY } at;
    uint8_t prefix[5], prefix_size, tag, shift, head_size;
    uint8_t head[64];  /* the first bytes of the field being read */
    uint64_t value;
    int64_t left_in_message, left_in_field, watcher;
};

struct stream {
    uint32_t id;
    int64_t window, received, messages;
    struct reader reader;
};

struct connection {
    int fd;
    enum kind kind;
    bool greeted, indexed, wants_write;
    uint8_t *in, *out;
    size_t in_size, out_start, out_size, out_room;
    int64_t window, initial_window, received;
    uint32_t next_stream, max_streams, in_flight;
    struct slot *slots;
    struct stream *streams;
    int stream_count, first_stream;  /* first_stream: over all connections */
};

/* A message to send, and where in it the numbers go. */
struct body {
    uint8_t *bytes;
    size_t size, number_at[MARKS], running_at[MARKS], random_at, random_size;
    int numbers, runnings;
};

struct record {
    int64_t at, took;
};

struct records {
    struct record *all;
    size_t size, room;
};

static int port, connections = 1, streams = 1, bodies, watchers, echoes, stream_connections = 1;
static const char *path, *stream_path, *stream_bodies, *record_file, *event_file;
static struct body body[VARINT_MAX + 1];
static int64_t count = -1, first, modulo, revision_at = -1;
static double seconds, warm_up, rate;
static bool until_stdin;

static struct connection *all;
static int epoll, timer, all_size, ready;
static int64_t started, measured_from, measured_to, issued, completed, in_window, failed;
static int64_t in_flight, due_total, events, created, last_event, last_completed, *revisions;
static int64_t *watcher_events, *watcher_sums, *sent_at, acknowledged_sum;
static bool stopping;
static struct records call_records, event_records;

static void die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    exit(1);
}

static void *more(void *old, size_t size) {
    void *block = realloc(old, size);
    if (!block) die("out of memory");
    return block;
}

static void *zeroed(size_t amount, size_t size) {
    return memset(more(NULL, amount * size + 1), 0, amount * size);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint32_t get32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t value) {
    p[0] = value >> 24, p[1] = value >> 16, p[2] = value >> 8, p[3] = value;
}

static void record(struct records *to, int64_t at, int64_t took) {
    if (to->size == to->room) {
        to->room = to->room ? 2 * to->room : 65536;
        to->all = more(to->all, to->room * sizeof *to->all);
    }
    to->all[to->size++] = (struct record){at, took};
}

static void save(const struct records *from, const char *name) {
    FILE *file = fopen(name, "wb");
    if (!file || fwrite(from->all, sizeof *from->all, from->size, file) != from->size || fclose(file))
        die("%s: %s", name, strerror(errno));
}

/* Writing: everything goes through the connection's buffer, and out in one call a turn. */

static uint8_t *reserve(struct connection *c, size_t size) {
    if (c->out_room - c->out_size < size) {
        memmove(c->out, c->out + c->out_start, c->out_size - c->out_start);
        c->out_size -= c->out_start, c->out_start = 0;
        while (c->out_room - c->out_size < size) c->out = more(c->out, c->out_room *= 2);
    }
    c->out_size += size;
    return c->out + c->out_size - size;
}

static uint8_t *frame(struct connection *c, size_t size, int type, int flags, uint32_t stream) {
    uint8_t *p = reserve(c, 9 + size);
    p[0] = size >> 16, p[1] = size >> 8, p[2] = size, p[3] = type, p[4] = flags;
    put32(p + 5, stream);
    return p + 9;
}

static void flush(struct connection *c) {
    while (c->out_start < c->out_size) {
        ssize_t sent = send(c->fd, c->out + c->out_start, c->out_size - c->out_start, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) die("send: %s", strerror(errno));
        c->out_start += sent;
    }
    if (c->out_start == c->out_size) c->out_start = c->out_size = 0;
    bool wants = c->out_size > 0;
    if (wants == c->wants_write) return;
    c->wants_write = wants;
    struct epoll_event e = {.events = EPOLLIN | (wants ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
}

/* HPACK (RFC 7541): the first block of a connection puts four fields into the table, 62 being the
   one that came last; each later block only refers to them. */
static void open_stream(struct connection *c, uint32_t stream, const char *method) {
    static const uint8_t again[] = {0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62};
    if (c->indexed) {
        memcpy(frame(c, sizeof again, HEADERS, END_HEADERS, stream), again, sizeof again);
        return;
    }
    char authority[32];
    int path_size = strlen(method);
    int authority_size = snprintf(authority, sizeof authority, "127.0.0.1:%d", port);
    uint8_t *p = frame(c, 2 + 2 + path_size + 2 + authority_size + 18 + 13, HEADERS, END_HEADERS, stream);
    *p++ = 0x83, *p++ = 0x86;  /* :method POST, :scheme http */
    *p++ = 0x40 | 4, *p++ = path_size;
    p = mempcpy(p, method, path_size);
    *p++ = 0x40 | 1, *p++ = authority_size;
    p = mempcpy(p, authority, authority_size);
    p = mempcpy(p, "\x5f\x10" "application/grpc", 18);
    memcpy(p, "\x40\x02" "te" "\x08" "trailers", 13);
    c->indexed = true;
}

static void send_data(struct connection *c, uint32_t stream, const uint8_t *bytes, size_t size, bool end) {
    c->window -= size;
    while (size > FRAME_MAX) {
        memcpy(frame(c, FRAME_MAX, DATA, 0, stream), bytes, FRAME_MAX);
        bytes += FRAME_MAX, size -= FRAME_MAX;
    }
    memcpy(frame(c, size, DATA, end ? END_STREAM : 0, stream), bytes, size);
}

static void write_digits(uint8_t *p, int64_t value) {
    for (int i = DIGITS; i--; value /= 10) p[i] = '0' + value % 10;
}

/* What no server can compress: xorshift (Marsaglia 2003), another sequence for each number. */
static void write_random(uint8_t *p, size_t size, int64_t number) {
    uint64_t x = 0x9e3779b97f4a7c15 * (number + 1);
    for (size_t i = 0; i < size; i += sizeof x) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(p + i, &x, size - i < sizeof x ? size - i : sizeof x);
    }
}

/* Unary calls. */

static int varint_size(uint64_t value) {
    int size = 1;
    while (value >>= 7) size++;
    return size;
}

static bool may_issue(const struct connection *c) {
    return c->greeted && c->in_flight < c->max_streams && c->window >= (int64_t)body[bodies].size;
}

static void issue(struct connection *c, int64_t number, int64_t due) {
    const struct body *b = &body[1];
    if (revisions) {
        int size = varint_size(revisions[number]);
        if (size > bodies) die("revision %lld needs a longer body", (long long)revisions[number]);
        b = &body[size];
        uint64_t value = revisions[number];
        for (int i = 0; i < size; i++, value >>= 7)
            b->bytes[revision_at + i] = (value & 0x7f) | (i < size - 1 ? 0x80 : 0);
    }
    int64_t key = modulo ? number % modulo : number;
    for (int i = 0; i < b->numbers; i++) write_digits(b->bytes + b->number_at[i], key);
    for (int i = 0; i < b->runnings; i++)
        write_digits(b->bytes + b->running_at[i], key * b->runnings + i);
    write_random(b->bytes + b->random_at, b->random_size, number);
    uint32_t stream = c->next_stream;
    c->next_stream += 2;
    if (c->next_stream > WINDOW - 2) die("stream ids are used up");
    struct slot *slot = &c->slots[stream / 2 % SLOTS];
    if (slot->stream) die("%d calls in flight on one connection", SLOTS);
    *slot = (struct slot){.stream = stream, .due = due, .number = number};
    open_stream(c, stream, path);
    send_data(c, stream, b->bytes, b->size, true);
    if (sent_at) sent_at[number] = due;
    c->in_flight++, in_flight++, issued++;
}

static bool may_start(void) {
    return !stopping && (count < 0 || issued < count);
}

static void fill(struct connection *c) {
    int64_t at = now();
    while (may_start() && c->in_flight < (uint32_t)streams && may_issue(c))
        issue(c, first + issued, at);
}

/* The header of an answer: field 1, a ResponseHeader whose field 3 is the revision; then, in a
   TxnResponse, field 2 says that the comparisons held. */
static bool follow(const uint8_t *p, size_t size, int64_t number) {
    if (size < 8 || p[5] != 0x0a) return false;
    const uint8_t *at = p + 7, *end = at + p[6];
    if (end + 2 > p + size || end[0] != 0x10 || end[1] != 1) return false;
    while (at < end) {
        uint8_t tag = *at++;
        uint64_t value = 0;
        for (int shift = 0; at < end; shift += 7) {
            value |= (uint64_t)(*at & 0x7f) << shift;
            if (!(*at++ & 0x80)) break;
        }
        if (tag == 0x18) return revisions[number] = value, true;
    }
    return false;
}

static void completes(struct connection *c, struct slot *slot, bool success) {
    int64_t at = now(), number = slot->number;
    if (success) completed++, acknowledged_sum += number;
    else failed++;
    if (success && at >= measured_from && (!measured_to || at <= measured_to)) in_window++;
    if (record_file) record(&call_records, slot->due, at - slot->due);
    last_completed = at;
    slot->stream = 0;
    c->in_flight--, in_flight--;
    if (revisions && may_start()) issue(c, number, at);
}

static void unary_frame(struct connection *c, int type, int flags, uint32_t stream, const uint8_t *p, size_t size) {
    struct slot *slot = &c->slots[stream / 2 % SLOTS];
    /* A server may reset a stream after its answer, to say that it needs no more of the request (RFC
       9113, section 8.1). grpc-go does when it has answered before it saw that the request ends. */
    if (slot->stream != stream && type == RST_STREAM) return;
    if (slot->stream != stream) die("a frame of type %d for stream %u, which has no call", type, stream);
    if (type == DATA && !slot->answered) slot->answered = !revisions || follow(p, size, slot->number);
    if (type == RST_STREAM) completes(c, slot, false);
    else if (flags & END_STREAM) completes(c, slot, type == HEADERS && slot->answered);
}

/* Streams: watchers, and messages that wait for their answers. */

/* Event: field 2 is the KeyValue, whose field 1 is the key, which ends with the number. */
static void event(struct reader *r, int64_t watcher) {
    const uint8_t *p = r->head, *end = r->head + r->head_size;
    if (p[0] != 0x12) die("an event that is no put");
    for (p++; *p++ & 0x80;) continue;
    if (p[0] != 0x0a || p + 2 + p[1] > end) die("an event without a key");
    int64_t number = 0;
    for (const uint8_t *digit = p + 2 + p[1] - DIGITS; digit < p + 2 + p[1]; digit++)
        number = 10 * number + *digit - '0';
    if (watcher >= watchers) die("an event for watcher %lld", (long long)watcher);
    watcher_events[watcher]++, watcher_sums[watcher] += number, events++;
    last_event = now();
    if (event_file) record(&event_records, sent_at[number], last_event - sent_at[number]);
}

static void message_ends(struct connection *c, struct stream *s, int index) {
    s->reader.at = PREFIX, s->reader.prefix_size = 0;
    if (c->kind == WATCH) return;
    completed++, last_completed = now();
    if (last_completed >= measured_from && last_completed <= measured_to) in_window++;
    if (stopping) return;
    const struct body *b = &body[0];
    size_t size = b->size / echoes;
    if (s->window < (int64_t)size || c->window < (int64_t)size) die("the server grants no window");
    s->window -= size;
    send_data(c, s->id, b->bytes + size * (c->first_stream + index), size, false);
}

static void field_ends(struct connection *c, struct reader *r) {
    if (c->kind == WATCH && r->tag == 0x5a) event(r, c->first_stream + r->watcher * stream_connections);
    r->at = TAG;
}

static void stream_bytes(struct connection *c, struct stream *s, int index, const uint8_t *p, const uint8_t *end) {
    struct reader *r = &s->reader;
    while (p < end) {
        if (r->at == PREFIX) {
            r->prefix[r->prefix_size++] = *p++;
            if (r->prefix_size < 5) continue;
            r->left_in_message = get32(r->prefix + 1);
            r->at = c->kind == WATCH ? TAG : BODY, r->left_in_field = r->left_in_message;
            r->tag = r->head_size = r->watcher = 0;
        } else if (r->at == BODY) {
            int64_t take = end - p < r->left_in_field ? end - p : r->left_in_field;
            int64_t keep = (int64_t)sizeof r->head - r->head_size;
            if (keep > take) keep = take;
            memcpy(r->head + r->head_size, p, keep);
            r->head_size += keep, p += take;
            r->left_in_field -= take, r->left_in_message -= take;
            if (!r->left_in_field) field_ends(c, r);
        } else if (r->at == TAG) {
            r->tag = *p++, r->left_in_message--, r->value = r->shift = 0;
            r->at = (r->tag & 7) == 2 ? LENGTH : VARINT;
            if ((r->tag & 7) != 2 && r->tag & 7) die("an answer with tag %d", r->tag);
        } else {
            r->value |= (uint64_t)(*p & 0x7f) << r->shift, r->shift += 7, r->left_in_message--;
            if (*p++ & 0x80) continue;
            if (r->at == LENGTH) {
                r->left_in_field = r->value, r->head_size = 0, r->at = BODY;
                if (!r->left_in_field) field_ends(c, r);
            } else {
                if (r->tag == 0x10) r->watcher = r->value;
                if (r->tag == 0x18) created++;
                if (r->tag == 0x20) die("the server cancelled a watcher");
                r->at = TAG;
            }
        }
        if (r->at != PREFIX && r->left_in_message == 0) message_ends(c, s, index);
    }
}

static void stream_frame(struct connection *c, int type, int flags, uint32_t id, const uint8_t *p, size_t size) {
    int index = id / 2;
    if (index >= c->stream_count) die("a frame for stream %u, which is not open", id);
    struct stream *s = &c->streams[index];
    if (type == RST_STREAM || flags & END_STREAM) die("the server ended a stream");
    if (type == WINDOW_UPDATE) s->window += get32(p);
    if (type != DATA) return;
    s->received += size;
    if (s->received > REPLENISH) {
        put32(frame(c, 4, WINDOW_UPDATE, 0, id), s->received);
        s->received = 0;
    }
    stream_bytes(c, s, index, p, p + size);
}

/* body[0] is what held streams send: for WATCH one message, which creates a watcher; for ECHO one
   message each, equally long. */
static void open_streams(struct connection *c) {
    for (int i = 0; i < c->stream_count; i++) {
        struct stream *s = &c->streams[i];
        s->id = c->next_stream, s->window = c->initial_window;
        c->next_stream += 2;
        open_stream(c, s->id, stream_path);
        int own = c->kind == WATCH ? (watchers + stream_connections - 1 - c->first_stream) / stream_connections : 1;
        size_t size = c->kind == WATCH ? body[0].size : body[0].size / echoes;
        const uint8_t *message = body[0].bytes + (c->kind == WATCH ? 0 : size * (c->first_stream + i));
        for (int n = 0; n < own; n++) send_data(c, s->id, message, size, false);
        s->window -= size * own;
        if (s->window < 0 || c->window < 0) die("more watchers a stream than its window takes");
    }
}

/* Frames. */

static void settings(struct connection *c, const uint8_t *p, size_t size) {
    for (; size >= 6; p += 6, size -= 6) {
        int name = p[0] << 8 | p[1];
        uint32_t value = get32(p + 2);
        if (name == 1 && value < 4096) die("the server's header table is too small");
        if (name == 3) c->max_streams = value;
        if (name == 4) {
            for (int i = 0; i < c->stream_count; i++) c->streams[i].window += value - c->initial_window;
            c->initial_window = value;
        }
    }
    frame(c, 0, SETTINGS, ACK, 0);
    if (c->greeted) return;
    c->greeted = true, ready++;
    if (c->kind == UNARY && c->initial_window < (int64_t)body[bodies].size)
        die("the body is larger than a stream's window");
}

static void one_frame(struct connection *c, int type, int flags, uint32_t stream, const uint8_t *p, size_t size) {
    if (type == DATA) {
        if (flags & PADDED) die("a padded frame");
        c->received += size;
        if (c->received > REPLENISH) {
            put32(frame(c, 4, WINDOW_UPDATE, 0, 0), c->received);
            c->received = 0;
        }
    }
    if (type == SETTINGS && !(flags & ACK)) settings(c, p, size);
    else if (type == PING && !(flags & ACK)) memcpy(frame(c, 8, PING, ACK, 0), p, 8);
    else if (type == GOAWAY) die("GOAWAY, code %u: %.*s", get32(p + 4), (int)size - 8, p + 8);
    else if (type == WINDOW_UPDATE && !stream) c->window += get32(p);
    else if (stream && c->kind != UNARY) stream_frame(c, type, flags, stream, p, size);
    else if (type == DATA || type == HEADERS || type == RST_STREAM) unary_frame(c, type, flags, stream, p, size);
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, c->in + c->in_size, READ_SIZE - c->in_size, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the server closed a connection: %s", got ? strerror(errno) : "end of file");
    c->in_size += got;
    uint8_t *p = c->in, *end = c->in + c->in_size;
    while (end - p >= 9) {
        size_t size = p[0] << 16 | p[1] << 8 | p[2];
        if (size > FRAME_MAX) die("a frame of %zu bytes", size);
        if ((size_t)(end - p) < 9 + size) break;
        one_frame(c, p[3], p[4], get32(p + 5) & WINDOW, p + 9, size);
        p += 9 + size;
    }
    c->in_size = end - p;
    memmove(c->in, p, c->in_size);
}

static void dial(struct connection *c, enum kind kind) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    *c = (struct connection){.kind = kind, .fd = socket(AF_INET, SOCK_STREAM, 0), .next_stream = 1};
    c->window = c->initial_window = 65535, c->max_streams = UINT32_MAX;
    c->in = more(NULL, READ_SIZE), c->out = more(NULL, c->out_room = 1 << 16);
    if (kind == UNARY) c->slots = zeroed(SLOTS, sizeof *c->slots);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
    memcpy(reserve(c, 24), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    uint8_t *p = frame(c, 6, SETTINGS, 0, 0);
    p[0] = 0, p[1] = 4;
    put32(p + 2, WINDOW);
    put32(frame(c, 4, WINDOW_UPDATE, 0, 0), WINDOW - 65535);
    flush(c);
}

/* The run. */

static bool turn(int timeout_ms) {
    struct epoll_event got[256];
    int size = epoll_wait(epoll, got, 256, timeout_ms);
    bool ticked = false;
    for (int i = 0; i < size; i++) {
        struct connection *c = got[i].data.ptr;
        uint64_t ticks;
        if (got[i].data.ptr == &timer) {
            ticked = read(timer, &ticks, sizeof ticks) > 0;
        } else if (got[i].data.ptr == &until_stdin) {
            epoll_ctl(epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            stopping = true;
        } else {
            if (got[i].events & ~EPOLLOUT) receive(c);
            if (c->kind == UNARY && started && rate == 0 && !revisions) fill(c);
            flush(c);
        }
    }
    return ticked;
}

static void issue_due(void) {
    static int next;
    int64_t target = (now() - started) / 1e9 * rate;
    if (!stopping && target > due_total) due_total = target;
    if (count >= 0 && due_total > count) due_total = count;
    for (int tried = 0; issued < due_total && tried < connections; next = (next + 1) % connections) {
        struct connection *c = &all[next];
        tried = may_issue(c) ? 0 : tried + 1;
        if (tried) continue;
        issue(c, first + issued, started + (int64_t)(issued / rate * 1e9));
    }
    for (int i = 0; i < connections; i++) flush(&all[i]);
}

static bool watchers_done(void) {
    for (int i = 0; i < watchers && watcher_events; i++)
        if (watcher_events[i] < completed) return false;
    return true;
}

static void start(void) {
    started = now();
    measured_from = started + (int64_t)(warm_up * 1e9);
    if (seconds > 0) measured_to = measured_from + (int64_t)(seconds * 1e9);
    if (rate > 0) {
        struct itimerspec every = {.it_value = {0, 500000}, .it_interval = {0, 500000}};
        timerfd_settime(timer, 0, &every, NULL);
        return;
    }
    for (int i = 0; i < connections; i++) {
        if (revisions)
            for (int s = 0; s < streams; s++) issue(&all[i], i * streams + s, started);
        else
            fill(&all[i]);
        flush(&all[i]);
    }
}

static void run(void) {
    int64_t moved = now(), before = -1;
    while (ready < all_size) {
        turn(1000);
        if (now() - moved > STALL_NS) die("the server does not greet");
    }
    for (int i = connections; i < all_size; i++)
        if (all[i].kind == WATCH) open_streams(&all[i]), flush(&all[i]);
    while (watcher_events && created < watchers) {
        turn(1000);
        if (now() - moved > STALL_NS) die("%lld of %d watchers", (long long)created, watchers);
    }
    start();
    for (int i = connections; i < all_size; i++)
        if (all[i].kind == ECHO) open_streams(&all[i]), flush(&all[i]);
    moved = started;
    for (;;) {
        turn(100);
        int64_t at = now();
        if (measured_to && at >= measured_to) stopping = true;
        if (rate > 0) issue_due();
        bool wanted = rate > 0 ? issued < due_total || (!stopping && (count < 0 || due_total < count)) : may_start();
        if (stream_bodies && !watcher_events) wanted = !stopping;
        if (!wanted && !in_flight && watchers_done()) return;
        if (completed + events != before) before = completed + events, moved = at;
        if (at - moved > STALL_NS)
            die("no progress: %lld calls in flight, %lld events", (long long)in_flight, (long long)events);
    }
}

static struct body read_body(const char *name) {
    FILE *file = fopen(name, "rb");
    struct body b = {.bytes = more(NULL, 1 << 21)};
    if (!file) die("%s: %s", name, strerror(errno));
    b.size = fread(b.bytes, 1, 1 << 21, file);
    fclose(file);
    return b;
}

/* In a body, ten @ are the number of the call, and ten # the next of a number that runs over all
   of them: so one call can put many distinct keys. One run of ten $ and more is filled with bytes
   that differ from call to call. */
static void find_marks(struct body *b) {
    uint8_t *run = memmem(b->bytes, b->size, "$$$$$$$$$$", DIGITS);
    if (run) {
        b->random_at = run - b->bytes;
        while (b->random_at + b->random_size < b->size && run[b->random_size] == '$') b->random_size++;
    }
    for (size_t i = 0; i + DIGITS <= b->size; i++) {
        if (!memcmp(b->bytes + i, "@@@@@@@@@@", DIGITS)) b->number_at[b->numbers++] = i;
        if (!memcmp(b->bytes + i, "##########", DIGITS)) b->running_at[b->runnings++] = i;
        if (b->numbers == MARKS || b->runnings == MARKS) die("too many numbers in a body");
    }
}

static const struct option options[] = {
    {"port", 1, 0, 'p'},         {"path", 1, 0, 'P'},           {"connections", 1, 0, 'c'},
    {"streams", 1, 0, 'm'},      {"body", 1, 0, 'b'},           {"revision-at", 1, 0, 'r'},
    {"count", 1, 0, 'n'},        {"seconds", 1, 0, 's'},        {"warm-up", 1, 0, 'w'},
    {"until-stdin", 0, 0, 'u'},  {"rate", 1, 0, 'R'},           {"first", 1, 0, 'f'},
    {"modulo", 1, 0, 'M'},       {"records", 1, 0, 'o'},        {"events", 1, 0, 'e'},
    {"watch", 1, 0, 'W'},        {"echo", 1, 0, 'E'},           {"stream-body", 1, 0, 'B'},
    {"stream-connections", 1, 0, 'C'}, {"held", 1, 0, 'N'}, {0},
};

int main(int argc, char **argv) {
    enum kind kind = WATCH;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'p': port = atoi(optarg); break;
        case 'P': path = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 'm': streams = atoi(optarg); break;
        case 'b': if (bodies < VARINT_MAX) body[++bodies] = read_body(optarg); break;
        case 'r': revision_at = atoll(optarg); break;
        case 'n': count = atoll(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'w': warm_up = atof(optarg); break;
        case 'u': until_stdin = true; break;
        case 'R': rate = atof(optarg); break;
        case 'f': first = atoll(optarg); break;
        case 'M': modulo = atoll(optarg); break;
        case 'o': record_file = optarg; break;
        case 'e': event_file = optarg; break;
        case 'W': stream_path = optarg; break;
        case 'E': stream_path = optarg, kind = ECHO; break;
        case 'B': stream_bodies = optarg; break;
        case 'C': stream_connections = atoi(optarg); break;
        case 'N': watchers = echoes = atoi(optarg); break;
        default: return 2;
        }
    }
    *(kind == WATCH ? &echoes : &watchers) = 0;
    if (!path) connections = 0;
    for (int i = 1; i <= bodies; i++) find_marks(&body[i]);
    if (stream_bodies) body[0] = read_body(stream_bodies);
    if (revision_at >= 0) revisions = zeroed(connections * streams, sizeof *revisions);
    if (stream_path && kind == WATCH) {
        watcher_events = zeroed(watchers, sizeof *watcher_events);
        watcher_sums = zeroed(watchers, sizeof *watcher_sums);
        if (count < 0) die("watchers need a --count of calls");
        sent_at = zeroed(first + count, sizeof *sent_at);
    }
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &timer};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &e);
    e = (struct epoll_event){.events = EPOLLIN, .data.ptr = &until_stdin};
    if (until_stdin && epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e)) die("stdin: %s", strerror(errno));
    all_size = connections + (stream_path ? stream_connections : 0);
    all = zeroed(all_size, sizeof *all);
    for (int i = 0; i < all_size; i++) dial(&all[i], i < connections ? UNARY : kind);
    for (int i = connections, next = 0; i < all_size; i++) {
        /* Watcher w is on connection w modulo the connections; its id there is the quotient. */
        all[i].stream_count = kind == WATCH ? 1 : echoes / stream_connections;
        all[i].first_stream = kind == WATCH ? i - connections : next;
        next += all[i].stream_count;
        all[i].streams = zeroed(all[i].stream_count, sizeof *all[i].streams);
    }
    run();
    int64_t wrong = 0;
    for (int i = 0; i < watchers && watcher_events; i++)
        wrong += watcher_events[i] != completed || watcher_sums[i] != acknowledged_sum;
    if (record_file) save(&call_records, record_file);
    if (event_file) save(&event_records, event_file);
    printf("{\"calls\": %lld, \"failed\": %lld, \"in_window\": %lld, \"seconds\": %.6f, "
           "\"events\": %lld, \"event_seconds\": %.6f, \"wrong_watchers\": %lld}\n",
           (long long)completed, (long long)failed, (long long)in_window,
           seconds > 0 ? seconds : (last_completed - started) / 1e9, (long long)events,
           events ? (last_event - started) / 1e9 : 0.0, (long long)wrong);
    return 0;
}
