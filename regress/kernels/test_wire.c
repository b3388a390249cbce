/*
 * The wire: every message survives encoding and decoding; nothing malformed is accepted, crashes or is read
 * beyond.
 *
 * Payloads and decoded structs lie against an inaccessible page, so that one byte too far is a crash in any
 * build.
 */
#include "../../kernels/engine/wire.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FUZZ_ROUNDS 200000

static uint64_t random_state = 88172645463325252u;

static uint64_t random_word(void) /* xorshift64 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* A block of which the last `size` bytes end at an inaccessible page. */
struct guarded {
    unsigned char *end;
};

static struct guarded guard(size_t room)
{
    size_t page = (size_t) sysconf(_SC_PAGESIZE), whole = (room + page - 1) / page * page;
    unsigned char *block =
        mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (block == MAP_FAILED || mprotect(block + whole, page, PROT_NONE))
        abort();
    return (struct guarded){block + whole};
}

/* ---- round trips ---- */

static unsigned char blob_bytes[1000];

static void random_string(char *string, size_t size)
{
    size_t length = random_word() % size;

    memset(string, 0, size);
    for (size_t i = 0; i < length; i++)
        string[i] = (char) (1 + random_word() % 255);
}

#define FILL_I64(name) m->name = (int64_t) random_word();
#define FILL_F64(name)                                                                                       \
    do {                                                                                                     \
        uint64_t bits = random_word();                                                                       \
        memcpy(&m->name, &bits, sizeof bits);                                                                \
    } while (0);
#define FILL_STR(name)  random_string(m->name, sizeof m->name);
#define FILL_SPEC(name) fill_spec(&m->name);
#define FILL_BLOB(name)                                                                                      \
    m->name.data = blob_bytes;                                                                               \
    m->name.size = random_word() % sizeof blob_bytes;

static void fill_spec(struct tlaw_spec *m)
{
    TLAW_SPEC_FIELDS(FILL_I64, FILL_F64, FILL_STR)
}

#define SAME_I64(name)                                                                                       \
    if (a->name != b->name)                                                                                  \
        return false;
#define SAME_F64(name)                                                                                       \
    if (memcmp(&a->name, &b->name, sizeof a->name))                                                          \
        return false;
#define SAME_STR(name)                                                                                       \
    if (strcmp(a->name, b->name))                                                                            \
        return false;
#define SAME_SPEC(name)                                                                                      \
    if (!same_spec(&a->name, &b->name))                                                                      \
        return false;
#define SAME_BLOB(name)                                                                                      \
    if (a->name.size != b->name.size || memcmp(a->name.data, b->name.data, a->name.size))                    \
        return false;

static bool same_spec(const struct tlaw_spec *a, const struct tlaw_spec *b)
{
    TLAW_SPEC_FIELDS(SAME_I64, SAME_F64, SAME_STR)
    return true;
}

#define ROUND_TRIP(NAME, name)                                                                               \
    static void fill_##name(struct tlaw_##name##_message *m)                                                 \
    {                                                                                                        \
        (void) m;                                                                                            \
        TLAW_##NAME##_FIELDS(FILL_I64, FILL_F64, FILL_STR, FILL_STR, FILL_SPEC, FILL_BLOB)                   \
    }                                                                                                        \
    static bool same_##name(const struct tlaw_##name##_message *a, const struct tlaw_##name##_message *b)    \
    {                                                                                                        \
        (void) a, (void) b;                                                                                  \
        TLAW_##NAME##_FIELDS(SAME_I64, SAME_F64, SAME_STR, SAME_STR, SAME_SPEC, SAME_BLOB) return true;      \
    }                                                                                                        \
    static void trip_##name(struct guarded payload, struct guarded room)                                     \
    {                                                                                                        \
        bool good = true;                                                                                    \
        for (int round = 0; round < 100 && good; round++) {                                                  \
            struct tlaw_##name##_message sent, *got = (void *) (room.end - sizeof sent);                     \
            struct tlaw_wire_buffer frame = {0};                                                             \
            fill_##name(&sent);                                                                              \
            good = tlaw_wire_encode(&frame, TLAW_##NAME, &sent) == 0 &&                                      \
                   decode_guarded(&frame, payload, got) == TLAW_##NAME && same_##name(&sent, got);           \
            tlaw_wire_buffer_free(&frame);                                                                   \
        }                                                                                                    \
        ok(good, "%s comes back as it was sent", tlaw_wire_name(TLAW_##NAME));                               \
    }

/* Decodes a whole frame; TLAW_NO_MESSAGE when refused. */
static enum tlaw_message decode_guarded(const struct tlaw_wire_buffer *frame, struct guarded payload,
                                        void *message)
{
    enum tlaw_message type;
    const char *reason;
    size_t size;

    if (tlaw_wire_header(frame->data, &type, &size, &reason) || size != frame->size - TLAW_WIRE_HEADER)
        return TLAW_NO_MESSAGE;
    memcpy(payload.end - size, frame->data + TLAW_WIRE_HEADER, size);
    return tlaw_wire_decode(type, payload.end - size, size, message, &reason) ? TLAW_NO_MESSAGE : type;
}

TLAW_WIRE_MESSAGES(ROUND_TRIP)

/* ---- what must be refused ---- */

static void refused(int result, const char **reason, const char *expected, const char *what)
{
    ok(result != 0 && strcmp(*reason, expected) == 0, "%s is refused: %s", what, expected);
}

/* Every proper prefix of a message without a blob is refused, and so is one byte more. */
static void test_truncation(struct guarded payload, struct guarded room)
{
    struct tlaw_result_message result;
    struct tlaw_wire_buffer frame = {0};
    const char *reason = NULL;
    size_t size;
    int accepted = 0;
    void *message = room.end - sizeof result;

    fill_result(&result);
    tlaw_wire_encode(&frame, TLAW_RESULT, &result);
    size = frame.size - TLAW_WIRE_HEADER;
    for (size_t cut = 0; cut < size; cut++) {
        memcpy(payload.end - cut, frame.data + TLAW_WIRE_HEADER, cut);
        accepted += tlaw_wire_decode(TLAW_RESULT, payload.end - cut, cut, message, &reason) == 0;
    }
    ok(accepted == 0, "no prefix of a RESULT is accepted");
    ok(strcmp(reason, "field thread_flops is cut short") == 0, "the reason names the field");
    memcpy(payload.end - size - 1, frame.data + TLAW_WIRE_HEADER, size);
    payload.end[-1] = 0;
    refused(tlaw_wire_decode(TLAW_RESULT, payload.end - size - 1, size + 1, message, &reason), &reason,
            "bytes after the last field", "a byte too many");
    tlaw_wire_buffer_free(&frame);
}

static void test_limits(struct guarded payload, struct guarded room)
{
    struct tlaw_checkpoint_message *checkpoint = (void *) (room.end - sizeof *checkpoint);
    struct tlaw_progress_message unterminated = {.step = 1};
    struct tlaw_wire_buffer frame = {0};
    struct tlaw_chunk_message chunk = {.data = {.size = TLAW_WIRE_MAX_PAYLOAD}};
    unsigned char header[TLAW_WIRE_HEADER];
    enum tlaw_message type;
    const char *reason;
    size_t size;

    memset(unterminated.phase, 'x', sizeof unterminated.phase);
    ok(tlaw_wire_encode(&frame, TLAW_PROGRESS, &unterminated) != 0 && frame.size == 0,
       "a string without an end is not sent");
    memset(payload.end - TLAW_NAME_SIZE - 1, 'x', TLAW_NAME_SIZE + 1);
    refused(tlaw_wire_decode(TLAW_CHECKPOINT, payload.end - TLAW_NAME_SIZE - 1, TLAW_NAME_SIZE + 1,
                             checkpoint, &reason),
            &reason, "field kind has no terminator within its size", "a string that does not fit");
    chunk.data.data = calloc(1, TLAW_WIRE_MAX_PAYLOAD + 1);
    ok(tlaw_wire_encode(&frame, TLAW_CHUNK, &chunk) == 0, "the largest payload is sent");
    memcpy(header, frame.data, sizeof header);
    ok(tlaw_wire_header(header, &type, &size, &reason) == 0 && size == TLAW_WIRE_MAX_PAYLOAD,
       "and its header read");
    header[8]++;
    refused(tlaw_wire_header(header, &type, &size, &reason), &reason, "payload too large", "one byte more");
    size = frame.size;
    chunk.data.size++;
    ok(tlaw_wire_encode(&frame, TLAW_CHUNK, &chunk) != 0 && frame.size == size,
       "and is not sent; the buffer stays as it was");
    free((void *) chunk.data.data);
    ok(tlaw_wire_encode(&frame, TLAW_NO_MESSAGE, &chunk) != 0 &&
           tlaw_wire_encode(&frame, TLAW_MESSAGE_COUNT, &chunk) != 0,
       "what is no message is not sent");
    tlaw_wire_buffer_free(&frame);
}

static void test_headers(void)
{
    struct tlaw_wire_buffer frame = {0};
    enum tlaw_message type;
    const char *reason;
    size_t size;
    int accepted = 0;

    tlaw_wire_encode(&frame, TLAW_END, &(struct tlaw_end_message){});
    ok(frame.size == TLAW_WIRE_HEADER && tlaw_wire_header(frame.data, &type, &size, &reason) == 0 &&
           type == TLAW_END && size == 0,
       "an empty message is a header");
    for (int bit = 0; bit < 32; bit++) {
        frame.data[bit / 8] ^= 1 << bit % 8;
        accepted += tlaw_wire_header(frame.data, &type, &size, &reason) == 0;
        frame.data[bit / 8] ^= 1 << bit % 8;
    }
    ok(accepted == 0, "a header with a bit of its magic flipped is refused");
    frame.data[4] = TLAW_MESSAGE_COUNT;
    refused(tlaw_wire_header(frame.data, &type, &size, &reason), &reason, "unknown type of message",
            "an unknown type");
    tlaw_wire_buffer_free(&frame);
}

/* ---- fuzz ---- */

#define FUZZ_CASE(NAME, name)                                                                                \
    case TLAW_##NAME: {                                                                                      \
        struct tlaw_##name##_message m;                                                                      \
        fill_##name(&m);                                                                                     \
        tlaw_wire_encode(frame, TLAW_##NAME, &m);                                                            \
        return sizeof m;                                                                                     \
    }

/* A valid frame of that type; the size of its struct. */
static size_t random_frame(struct tlaw_wire_buffer *frame, enum tlaw_message type)
{
    switch (type) {
        TLAW_WIRE_MESSAGES(FUZZ_CASE)
    case TLAW_NO_MESSAGE:
    case TLAW_MESSAGE_COUNT:
        break;
    }
    abort();
}

static void mutate(unsigned char *bytes, size_t size)
{
    for (size_t n = random_word() % 8; n > 0 && size > 0; n--) {
        size_t at = random_word() % size;

        if (random_word() % 2)
            bytes[at] ^= 1 << random_word() % 8;
        else
            bytes[at] = random_word() % 2 ? 0xFF : 0;
    }
}

static void test_fuzz(struct guarded payload, struct guarded room)
{
    struct tlaw_wire_buffer frame = {0};
    int refused = 0, accepted = 0;

    for (int round = 0; round < FUZZ_ROUNDS; round++) {
        enum tlaw_message type = 1 + random_word() % (TLAW_MESSAGE_COUNT - 1);
        size_t struct_size, size;
        const char *reason;
        enum tlaw_message claimed = type;

        frame.size = 0;
        struct_size = random_frame(&frame, type);
        size = frame.size - TLAW_WIRE_HEADER;
        if (random_word() % 2)
            size = random_word() % (size + 1);
        memcpy(payload.end - size, frame.data + TLAW_WIRE_HEADER, size);
        mutate(payload.end - size, size);
        if (tlaw_wire_decode(claimed, payload.end - size, size, room.end - struct_size, &reason))
            refused++;
        else
            accepted++;
        mutate(frame.data, TLAW_WIRE_HEADER);
        if (tlaw_wire_header(frame.data, &claimed, &size, &reason) == 0 &&
            (claimed <= TLAW_NO_MESSAGE || claimed >= TLAW_MESSAGE_COUNT || size > TLAW_WIRE_MAX_PAYLOAD))
            abort();
    }
    ok(refused > 0 && accepted > 0, "%d mutated payloads: %d refused, %d accepted", FUZZ_ROUNDS, refused,
       accepted);
    tlaw_wire_buffer_free(&frame);
}

int main(void)
{
    struct guarded payload = guard(1 << 16), room = guard(1 << 14);

    for (size_t i = 0; i < sizeof blob_bytes; i++)
        blob_bytes[i] = (unsigned char) random_word();
#define TRIP(NAME, name) trip_##name(payload, room);
    TLAW_WIRE_MESSAGES(TRIP)
    test_headers();
    test_truncation(payload, room);
    test_limits(payload, room);
    test_fuzz(payload, room);
    return tap_end();
}
