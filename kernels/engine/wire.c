/*
 * The checked encoder and decoder of the wire, generated from the field lists of wire.h.
 *
 * A number is 8 bytes, little-endian (doubles by their bits); a string its bytes and a NUL; a blob the rest
 * of the payload.  Invariants: no global state, nothing is written beyond the struct of the type decoded, an
 * input that is refused allocates nothing.  Compiled into the engine and into tlaw.so.
 */
#include "wire.h"

#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- encoding ---- */

static int reserve(struct tlaw_wire_buffer *out, size_t more)
{
    size_t capacity = out->capacity ? out->capacity : 256;
    unsigned char *data;

    if (more > SIZE_MAX / 2 - out->size)
        return -1;
    if (out->size + more <= out->capacity)
        return 0;
    while (capacity < out->size + more)
        capacity *= 2;
    data = realloc(out->data, capacity);
    if (!data)
        return -1;
    out->data = data;
    out->capacity = capacity;
    return 0;
}

static int put_bytes(struct tlaw_wire_buffer *out, const void *data, size_t size)
{
    if (size > TLAW_WIRE_MAX_PAYLOAD || reserve(out, size))
        return -1;
    if (size)
        memcpy(out->data + out->size, data, size);
    out->size += size;
    return 0;
}

static int put_u64(struct tlaw_wire_buffer *out, uint64_t value)
{
    value = htole64(value);
    return put_bytes(out, &value, sizeof(value));
}

static int put_double(struct tlaw_wire_buffer *out, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return put_u64(out, bits);
}

static int put_string(struct tlaw_wire_buffer *out, const char *string, size_t size)
{
    const char *end = memchr(string, 0, size);

    return end ? put_bytes(out, string, (size_t) (end - string) + 1) : -1;
}

#define PUT_I64(name)                                                                                        \
    if (put_u64(out, (uint64_t) m->name))                                                                    \
        return -1;
#define PUT_F64(name)                                                                                        \
    if (put_double(out, m->name))                                                                            \
        return -1;
#define PUT_STR(name)                                                                                        \
    if (put_string(out, m->name, sizeof(m->name)))                                                           \
        return -1;
#define PUT_SPEC(name)                                                                                       \
    if (put_spec(out, &m->name))                                                                             \
        return -1;
#define PUT_BLOB(name)                                                                                       \
    if (put_bytes(out, m->name.data, m->name.size))                                                          \
        return -1;

static int put_spec(struct tlaw_wire_buffer *out, const struct tlaw_spec *m)
{
    TLAW_SPEC_FIELDS(PUT_I64, PUT_F64, PUT_STR)
    return 0;
}

#define PUT_MESSAGE(NAME, name)                                                                              \
    static int put_##name(struct tlaw_wire_buffer *out, const struct tlaw_##name##_message *m)               \
    {                                                                                                        \
        (void) out, (void) m;                                                                                \
        TLAW_##NAME##_FIELDS(PUT_I64, PUT_F64, PUT_STR, PUT_STR, PUT_SPEC, PUT_BLOB) return 0;               \
    }
TLAW_WIRE_MESSAGES(PUT_MESSAGE)

static int put_message(struct tlaw_wire_buffer *out, enum tlaw_message type, const void *message)
{
    switch (type) {
#define PUT_CASE(NAME, name)                                                                                 \
    case TLAW_##NAME:                                                                                        \
        return put_##name(out, message);
        TLAW_WIRE_MESSAGES(PUT_CASE)
    case TLAW_NO_MESSAGE:
    case TLAW_MESSAGE_COUNT:
        break;
    }
    return -1;
}

/* See wire.h.  Header: uint32 magic, uint32 type, uint64 payload bytes. */
int tlaw_wire_encode(struct tlaw_wire_buffer *out, enum tlaw_message type, const void *message)
{
    size_t start = out->size;
    uint32_t words[2] = {htole32(TLAW_WIRE_MAGIC), htole32((uint32_t) type)};
    uint64_t payload;

    if (put_bytes(out, words, sizeof(words)) || put_u64(out, 0) || put_message(out, type, message) ||
        out->size - start - TLAW_WIRE_HEADER > TLAW_WIRE_MAX_PAYLOAD) {
        out->size = start;
        return -1;
    }
    payload = htole64(out->size - start - TLAW_WIRE_HEADER);
    memcpy(out->data + start + sizeof(words), &payload, sizeof(payload));
    return 0;
}

void tlaw_wire_buffer_free(struct tlaw_wire_buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof(*buffer));
}

/* ---- decoding ---- */

int tlaw_wire_header(const unsigned char header[TLAW_WIRE_HEADER], enum tlaw_message *type, size_t *payload,
                     const char **reason)
{
    uint32_t words[2];
    uint64_t size;

    memcpy(words, header, sizeof(words));
    memcpy(&size, header + sizeof(words), sizeof(size));
    words[0] = le32toh(words[0]);
    words[1] = le32toh(words[1]);
    size = le64toh(size);
    if (words[0] != TLAW_WIRE_MAGIC)
        *reason = "frame of another protocol or version";
    else if (words[1] <= TLAW_NO_MESSAGE || words[1] >= TLAW_MESSAGE_COUNT)
        *reason = "unknown type of message";
    else if (size > TLAW_WIRE_MAX_PAYLOAD)
        *reason = "payload too large";
    else {
        *type = (enum tlaw_message) words[1];
        *payload = (size_t) size;
        return 0;
    }
    return -1;
}

struct reader {
    const unsigned char *next, *end;
};

static bool get_u64(struct reader *in, uint64_t *value)
{
    if ((size_t) (in->end - in->next) < sizeof(*value))
        return false;
    memcpy(value, in->next, sizeof(*value));
    *value = le64toh(*value);
    in->next += sizeof(*value);
    return true;
}

static bool get_i64(struct reader *in, int64_t *value)
{
    uint64_t bits;

    if (!get_u64(in, &bits))
        return false;
    memcpy(value, &bits, sizeof(*value));
    return true;
}

static bool get_double(struct reader *in, double *value)
{
    uint64_t bits;

    if (!get_u64(in, &bits))
        return false;
    memcpy(value, &bits, sizeof(*value));
    return true;
}

static bool get_string(struct reader *in, char *string, size_t size)
{
    size_t left = (size_t) (in->end - in->next);
    const unsigned char *end = left ? memchr(in->next, 0, left < size ? left : size) : NULL;
    size_t length;

    if (!end)
        return false;
    length = (size_t) (end - in->next);
    memcpy(string, in->next, length + 1);
    in->next = end + 1;
    return true;
}

static void get_blob(struct reader *in, struct tlaw_blob *blob)
{
    blob->data = in->next;
    blob->size = (size_t) (in->end - in->next);
    in->next = in->end;
}

#define GET_I64(name)                                                                                        \
    if (!get_i64(in, &m->name))                                                                              \
        return "field " #name " is cut short";
#define GET_F64(name)                                                                                        \
    if (!get_double(in, &m->name))                                                                           \
        return "field " #name " is cut short";
#define GET_STR(name)                                                                                        \
    if (!get_string(in, m->name, sizeof(m->name)))                                                           \
        return "field " #name " has no terminator within its size";
#define GET_SPEC(name)                                                                                       \
    reason = get_spec(in, &m->name);                                                                         \
    if (reason)                                                                                              \
        return reason;
#define GET_BLOB(name) get_blob(in, &m->name);

static const char *get_spec(struct reader *in, struct tlaw_spec *m)
{
    TLAW_SPEC_FIELDS(GET_I64, GET_F64, GET_STR)
    return NULL;
}

#define GET_MESSAGE(NAME, name)                                                                              \
    static const char *get_##name(struct reader *in, struct tlaw_##name##_message *m)                        \
    {                                                                                                        \
        const char *reason = NULL;                                                                           \
        (void) in, (void) m;                                                                                 \
        TLAW_##NAME##_FIELDS(GET_I64, GET_F64, GET_STR, GET_STR, GET_SPEC, GET_BLOB) return reason;          \
    }
TLAW_WIRE_MESSAGES(GET_MESSAGE)

static const char *get_message(struct reader *in, enum tlaw_message type, void *message)
{
    switch (type) {
#define GET_CASE(NAME, name)                                                                                 \
    case TLAW_##NAME:                                                                                        \
        memset(message, 0, sizeof(struct tlaw_##name##_message));                                            \
        return get_##name(in, message);
        TLAW_WIRE_MESSAGES(GET_CASE)
    case TLAW_NO_MESSAGE:
    case TLAW_MESSAGE_COUNT:
        break;
    }
    return "unknown type of message";
}

int tlaw_wire_decode(enum tlaw_message type, const unsigned char *payload, size_t size, void *message,
                     const char **reason)
{
    struct reader in = {payload, payload + size};

    *reason = get_message(&in, type, message);
    if (!*reason && in.next != in.end)
        *reason = "bytes after the last field";
    return *reason ? -1 : 0;
}

/* The name of a type as wire.h writes it ("TRAIN"); "unknown" for anything else. */
const char *tlaw_wire_name(enum tlaw_message type)
{
    switch (type) {
#define NAME_CASE(NAME, name)                                                                                \
    case TLAW_##NAME:                                                                                        \
        return #NAME;
        TLAW_WIRE_MESSAGES(NAME_CASE)
    case TLAW_NO_MESSAGE:
    case TLAW_MESSAGE_COUNT:
        break;
    }
    return "unknown";
}
