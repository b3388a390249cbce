/*
 * What instructions of PTX do, as the ISA describes them: a table by opcode with all its modifiers, of what
 * nvcc makes of this repository's kernels.  A register is 64 bits; an instruction reads the low ones that its
 * type has, and writes zeros above them (sign bits where it loads a signed type).  Compiled with -fwrapv and
 * without contraction: integers wrap, and a*b+c is rounded twice unless it is fma.
 */
#include "ptx.h"
#include "../oracle/fragments.h"

#include <cuda_bf16.h>

#include <fenv.h>

/* ---- values ---- */

template <class T> static T as(uint64_t bits)
{
    T x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

template <> bool as<bool>(uint64_t bits)
{
    return bits & 1;
}

template <class T> static uint64_t bits_of(T x)
{
    uint64_t bits = 0;

    memcpy(&bits, &x, sizeof x);
    return bits;
}

static uint16_t to_bf16(float x)
{
    return __float2bfloat16(x).bits;
}

static float of_bf16(uint64_t bits)
{
    return __bfloat162float({(uint16_t) bits});
}

/* .ftz: subnormal numbers are zeros. */
static float flushed(float x)
{
    return fabsf(x) < 1.1754944e-38f ? copysignf(0, x) : x;
}

/* .rm: rounded down; volatile, so that it happens between the two changes of the mode. */
static float fma_down(float a, float b, float c)
{
    volatile float x = a, y = b, z = c, out;

    fesetround(FE_DOWNWARD);
    out = fmaf(x, y, z);
    fesetround(FE_TONEAREST);
    return out;
}

/* A whole number as an integer: the nearest there is, 0 for NaN. */
static int32_t to_s32(float x)
{
    return isnan(x) ? 0 : x >= 0x1p31f ? INT32_MAX : x < -0x1p31f ? INT32_MIN : (int32_t) x;
}

/* Four bytes of eight, by the numbers in `which`; 8 added: the byte's sign eight times. */
static uint32_t permuted(uint32_t low, uint32_t high, uint32_t which)
{
    uint64_t bytes = low | (uint64_t) high << 32;
    uint32_t out = 0;

    for (int n = 0; n < 4; n++) {
        uint32_t wanted = which >> 4 * n & 15, byte = bytes >> (wanted & 7) * 8 & 255;

        out |= (wanted & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * n;
    }
    return out;
}

/* `to` with its `count` bits from `at` on being the low ones of `from`. */
static uint32_t with_field(uint32_t from, uint32_t to, uint32_t at, uint32_t count)
{
    uint32_t ones = count > 31 ? ~0u : (1u << count) - 1;

    return at > 31 ? to : (to & ~(ones << at)) | (from & ones) << at;
}

/* ---- lanes ---- */

/* For each lane that executes the instruction. */
#define EACH(lane)                                                                                           \
    for (uint32_t lane##_left = lanes, lane;                                                                 \
         lane##_left && (lane = (uint32_t) __builtin_ctz(lane##_left), true);                                \
         lane##_left &= lane##_left - 1)
#define OUT(n) warp.at(i.out[n], lane)
#define IN(n)  warp.at(i.in[n], lane)

/* Instructions of a whole warp. */
static void need_all(const struct instruction &i, uint32_t lanes)
{
    if (lanes != ALL_LANES)
        ptx_refuse(i, "only lanes %#x of the warp are there", lanes);
}

static uint64_t place(const struct instruction &i, struct warp &warp, int n, uint32_t lane)
{
    return warp.at(i.at[n].slot, lane) + (uint64_t) i.at[n].offset;
}

static uint32_t shared_place(const struct instruction &i, struct warp &warp, uint32_t lane)
{
    return (uint32_t) place(i, warp, 0, lane);
}

/* ---- loads and stores ---- */

static void load(struct warp &warp, const struct instruction &i, uint32_t lane, const char *from)
{
    for (int n = 0; n < i.n_out; n++) {
        uint64_t bits = 0, unused = 64 - 8 * i.size;

        memcpy(&bits, from + (size_t) n * i.size, i.size);
        OUT(n) = i.is_signed ? (uint64_t) ((int64_t) (bits << unused) >> unused) : bits;
    }
}

static void store(struct warp &warp, const struct instruction &i, uint32_t lane, char *to)
{
    for (int n = 0; n < i.n_in; n++)
        memcpy(to + (size_t) n * i.size, &IN(n), i.size);
}

static void load_global(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    load(warp, i, lane, global_access(i, place(i, warp, 0, lane), i.size * i.n_out));
}

static void store_global(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    store(warp, i, lane, global_access(i, place(i, warp, 0, lane), i.size * i.n_in));
}

static void load_shared(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    load(warp, i, lane, shared_access(i, warp, lane, shared_place(i, warp, lane), i.size * i.n_out, false));
}

static void store_shared(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    store(warp, i, lane, shared_access(i, warp, lane, shared_place(i, warp, lane), i.size * i.n_in, true));
}

static void load_parameter(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    const char *at = (const char *) warp.call->arguments[(size_t) i.at[0].parameter].at;

    EACH(lane)
    load(warp, i, lane, at + i.at[0].offset);
}

static void atomic_add(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    {
        char *at = global_access(i, place(i, warp, 0, lane), 4);
        uint32_t before, after;

        memcpy(&before, at, 4);
        after = before + (uint32_t) IN(0);
        memcpy(at, &after, 4);
        OUT(0) = before;
    }
}

/* cp.async [to], [from], size, bytes: happens when its thread waits; until then nobody may read the target.
 */
static void begin_copy(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    {
        uint32_t to = shared_place(i, warp, lane), size = (uint32_t) IN(0), bytes = (uint32_t) IN(1);
        uint64_t from = place(i, warp, 1, lane);

        if (bytes > size || from % size)
            ptx_refuse(i, "a copy of %u of %u bytes from %#lx", bytes, size, (unsigned long) from);
        if (bytes)
            global_access(i, from, size);
        shared_access(i, warp, lane, to, size, true);
        shared_forget(to, size);
        warp.copies[lane].push_back({to, size, bytes, (const char *) from});
    }
}

static void begin_copy_16(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    if (IN(0) != 16)
        ptx_refuse(i, "cp.async.cg of %lu bytes", (unsigned long) IN(0));
    begin_copy(warp, i, lanes);
}

static void wait_copies(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    EACH(lane)
    {
        for (const struct copy &copy : warp.copies[lane]) {
            char *to = shared_access(i, warp, lane, copy.to, copy.size, true);

            memset(to, 0, copy.size);
            memcpy(to, copy.from, copy.bytes);
        }
        warp.copies[lane].clear();
    }
}

/* ---- warps ---- */

static void meet(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    need_all(i, lanes);
    EACH(lane)
    if ((uint32_t) IN(0) != ALL_LANES)
        ptx_refuse(i, "a mask of not all lanes");
    warp.passes++;
}

/* shfl.sync.bfly out[|there], value, step, 31, all */
static void shuffle(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    uint32_t values[WARP];

    need_all(i, lanes);
    EACH(lane)
    values[lane] = (uint32_t) IN(0);
    EACH(lane)
    {
        if (IN(1) >= WARP || IN(2) != WARP - 1 || (uint32_t) IN(3) != ALL_LANES)
            ptx_refuse(i, "another kind of shuffle");
        OUT(0) = values[lane ^ IN(1)];
        OUT(1) = true;
    }
}

static void vote(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    uint32_t votes = 0;

    need_all(i, lanes);
    EACH(lane)
    {
        if ((uint32_t) IN(1) != ALL_LANES)
            ptx_refuse(i, "a mask of not all lanes");
        votes |= (IN(0) ? 1u : 0u) << lane;
    }
    EACH(lane)
    OUT(0) = votes;
}

/* Rows in the same banks are only slow, but never meant. */
static void load_matrices(struct warp &warp, const struct instruction &i, uint32_t lanes,
                          const int elements[WARP][8])
{
    uint16_t row[WARP][8];
    uint32_t banks[4] = {};

    need_all(i, lanes);
    EACH(lane)
    {
        uint32_t at = shared_place(i, warp, lane);

        memcpy(row[lane], shared_access(i, warp, lane, at, sizeof row[lane], false), sizeof row[lane]);
        banks[lane / 8] |= 1u << at / 16 % 8;
    }
    for (uint32_t used : banks)
        if (used != 0xff)
            ptx_refuse(i, "rows in the same banks: %x of ff", used);
    EACH(lane)
    for (int value = 0; value < 8; value++) {
        uint64_t element = row[elements[lane][value] / 8][elements[lane][value] % 8];

        OUT(value / 2) = value % 2 ? OUT(value / 2) | element << 16 : element;
    }
}

static void load_rows(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    load_matrices(warp, i, lanes, oracle_ldmatrix);
}

static void load_columns(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    load_matrices(warp, i, lanes, oracle_ldmatrix_trans);
}

/* out[4] = a[4] b[2] + c[4]; the sum rounded once, which the ISA leaves open. */
static void multiply_matrices(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    float a[16][16], b[16][8];

    need_all(i, lanes);
    EACH(lane)
    {
        for (int v = 0; v < 8; v++)
            a[0][oracle_a[lane][v]] = of_bf16(IN(v / 2) >> v % 2 * 16);
        for (int v = 0; v < 4; v++)
            b[0][oracle_b[lane][v]] = of_bf16(IN(4 + v / 2) >> v % 2 * 16);
    }
    EACH(lane)
    for (int v = 0; v < 4; v++) {
        int row = oracle_c[lane][v] / 8, column = oracle_c[lane][v] % 8;
        double sum = as<float>(IN(6 + v));

        for (int k = 0; k < 16; k++)
            sum += (double) a[row][k] * b[k][column];
        OUT(v) = bits_of((float) sum);
    }
}

/* ---- mov of several: {low, high} to one register of `size` bytes and back ---- */

static void pack(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    uint32_t each = i.size * 8 / (uint32_t) i.n_in;

    EACH(lane)
    {
        uint64_t all = 0;

        for (int n = 0; n < i.n_in; n++)
            all |= (IN(n) & ((1ull << each) - 1)) << (uint32_t) n * each;
        OUT(0) = all;
    }
}

static void unpack(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    uint32_t each = i.size * 8 / (uint32_t) i.n_out;

    EACH(lane)
    {
        uint64_t all = IN(0);

        for (int n = 0; n < i.n_out; n++)
            OUT(n) = all >> (uint32_t) n * each & ((1ull << each) - 1);
    }
}

/* ---- the table: results of type R from x, y and z of type T ---- */

#define OPERATION(name, n_in, R, values, expression)                                                         \
    {                                                                                                        \
        name,                                                                                                \
        {                                                                                                    \
            1, n_in, [](struct warp &warp, const struct instruction &i, uint32_t lanes) {                    \
                EACH(lane)                                                                                   \
                {                                                                                            \
                    values;                                                                                  \
                    OUT(0) = bits_of<R>((R) (expression));                                                   \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }
#define UNARY(name, R, T, expression) OPERATION(name, 1, R, T x = as<T>(IN(0)), expression)
#define BINARY(name, R, T, expression)                                                                       \
    OPERATION(name, 2, R, T x = as<T>(IN(0)); T y = as<T>(IN(1)), expression)
#define TERNARY(name, R, T, expression)                                                                      \
    OPERATION(name, 3, R, T x = as<T>(IN(0)); T y = as<T>(IN(1)); T z = as<T>(IN(2)), expression)
/* a shift, by an unsigned number of bits */
#define SHIFT(name, T, expression)                                                                           \
    OPERATION(name, 2, T, T x = as<T>(IN(0)); uint32_t by = as<uint32_t>(IN(1)), expression)
#define SELECT(type, T)                                                                                      \
    OPERATION("selp." type, 3, T, T x = as<T>(IN(0)); T y = as<T>(IN(1));                                    \
              bool first = as<bool>(IN(2)), first ? x : y)
#define ORDER(type, T)                                                                                       \
    BINARY("setp.eq." type, bool, T, x == y), BINARY("setp.ne." type, bool, T, x != y),                      \
        BINARY("setp.lt." type, bool, T, x < y), BINARY("setp.le." type, bool, T, x <= y),                   \
        BINARY("setp.gt." type, bool, T, x > y), BINARY("setp.ge." type, bool, T, x >= y)
/* An ordered comparison is false where there is NaN, also of "not equal"; an unordered one is true. */
#define FLOAT_ORDER(type, T)                                                                                 \
    BINARY("setp.eq." type, bool, T, x == y), BINARY("setp.ne." type, bool, T, x<y || x> y),                 \
        BINARY("setp.lt." type, bool, T, x < y), BINARY("setp.le." type, bool, T, x <= y),                   \
        BINARY("setp.gt." type, bool, T, x > y), BINARY("setp.ge." type, bool, T, x >= y),                   \
        BINARY("setp.equ." type, bool, T, !(x < y || x > y)), BINARY("setp.neu." type, bool, T, !(x == y)),  \
        BINARY("setp.ltu." type, bool, T, !(x >= y)), BINARY("setp.leu." type, bool, T, !(x > y)),           \
        BINARY("setp.gtu." type, bool, T, !(x <= y)), BINARY("setp.geu." type, bool, T, !(x < y)),           \
        BINARY("setp.nan." type, bool, T, isnan(x) || isnan(y))
#define INTEGER(type, T)                                                                                     \
    BINARY("add." type, T, T, x + y), BINARY("sub." type, T, T, x - y), BINARY("mul.lo." type, T, T, x *y),  \
        TERNARY("mad.lo." type, T, T, x *y + z), BINARY("min." type, T, T, std::min(x, y)),                  \
        BINARY("max." type, T, T, std::max(x, y)), ORDER(type, T), SELECT(type, T),                          \
        UNARY("mov." type, T, T, x)
#define DIVISION(type, T) BINARY("div." type, T, T, x / y), BINARY("rem." type, T, T, x % y)
#define BITS(type, T)                                                                                        \
    BINARY("and." type, T, T, x &y), BINARY("or." type, T, T, x | y), BINARY("xor." type, T, T, x ^ y),      \
        UNARY("not." type, T, T, ~x), SHIFT("shl." type, T, by < 8 * sizeof x ? x << by : 0),                \
        BINARY("setp.eq." type, bool, T, x == y), BINARY("setp.ne." type, bool, T, x != y), SELECT(type, T), \
        UNARY("mov." type, T, T, x)
/* Without .rn, nvcc lets ptxas contract; here neither is. */
#define FLOAT(type, T)                                                                                       \
    BINARY("add." type, T, T, x + y), BINARY("add.rn." type, T, T, x + y), BINARY("sub." type, T, T, x - y), \
        BINARY("sub.rn." type, T, T, x - y), BINARY("mul." type, T, T, x *y),                                \
        BINARY("mul.rn." type, T, T, x *y), BINARY("div.rn." type, T, T, x / y),                             \
        UNARY("rcp.rn." type, T, T, 1 / x), TERNARY("fma.rn." type, T, T, std::fma(x, y, z)),                \
        UNARY("sqrt.rn." type, T, T, std::sqrt(x)), UNARY("abs." type, T, T, std::fabs(x)),                  \
        UNARY("neg." type, T, T, -x), BINARY("min." type, T, T, std::fmin(x, y)),                            \
        BINARY("max." type, T, T, std::fmax(x, y)), BINARY("copysign." type, T, T, std::copysign(y, x)),     \
        FLOAT_ORDER(type, T), SELECT(type, T), UNARY("mov." type, T, T, x)

static const std::map<std::string, struct operation> integers = {
    INTEGER("s16", int16_t),
    INTEGER("u16", uint16_t),
    INTEGER("s32", int32_t),
    INTEGER("u32", uint32_t),
    INTEGER("s64", int64_t),
    INTEGER("u64", uint64_t),
    DIVISION("s32", int32_t),
    DIVISION("u32", uint32_t),
    DIVISION("s64", int64_t),
    DIVISION("u64", uint64_t),
    BITS("b16", uint16_t),
    BITS("b32", uint32_t),
    BITS("b64", uint64_t),
    UNARY("neg.s32", int32_t, int32_t, -x),
    UNARY("neg.s64", int64_t, int64_t, -x),
    BINARY("mul.wide.u16", uint32_t, uint16_t, (uint32_t) x *y),
    BINARY("mul.wide.s32", int64_t, int32_t, (int64_t) x *y),
    BINARY("mul.wide.u32", uint64_t, uint32_t, (uint64_t) x *y),
    SHIFT("shr.u16", uint16_t, by < 16 ? x >> by : 0),
    SHIFT("shr.u32", uint32_t, by < 32 ? x >> by : 0),
    SHIFT("shr.u64", uint64_t, by < 64 ? x >> by : 0),
    SHIFT("shr.s32", int32_t, x >> std::min(by, 31u)),
    SHIFT("shr.s64", int64_t, x >> std::min(by, 63u)),
    BINARY("and.pred", bool, bool, x &&y),
    BINARY("or.pred", bool, bool, x || y),
    BINARY("xor.pred", bool, bool, x != y),
    UNARY("not.pred", bool, bool, !x),
    UNARY("mov.pred", bool, bool, x),
    UNARY("popc.b32", uint32_t, uint32_t, __builtin_popcount(x)),
    TERNARY("prmt.b32", uint32_t, uint32_t, permuted(x, y, z)),
    OPERATION("bfi.b32", 4, uint32_t, ,
              with_field((uint32_t) IN(0), (uint32_t) IN(1), IN(2) & 255, IN(3) & 255)),
    UNARY("cvta.to.global.u64", uint64_t, uint64_t, x),
    UNARY("cvt.s64.s32", int64_t, int32_t, x),
    UNARY("cvt.u64.u32", uint64_t, uint32_t, x),
    UNARY("cvt.u32.u64", uint32_t, uint64_t, x),
    UNARY("cvt.u16.u32", uint16_t, uint32_t, x),
    UNARY("cvt.u32.u16", uint32_t, uint16_t, x),
    UNARY("cvt.s32.s16", int32_t, int16_t, x),
};

static const std::map<std::string, struct operation> floats = {
    FLOAT("f32", float),
    FLOAT("f64", double),
    TERNARY("fma.rm.f32", float, float, fma_down(x, y, z)),
    UNARY("rcp.approx.ftz.f32", float, float, flushed(1 / flushed(x))),
    UNARY("ex2.approx.ftz.f32", float, float, flushed(exp2f(flushed(x)))),
    UNARY("cvt.f64.f32", double, float, x),
    UNARY("cvt.rn.f32.f64", float, double, x),
    UNARY("cvt.rn.f32.s32", float, int32_t, x),
    UNARY("cvt.rn.f32.u32", float, uint32_t, x),
    UNARY("cvt.rn.f64.s32", double, int32_t, x),
    UNARY("cvt.rn.f64.s64", double, int64_t, x),
    UNARY("cvt.rzi.s32.f32", int32_t, float, to_s32(truncf(x))),
    UNARY("cvt.rni.s32.f32", int32_t, float, to_s32(rintf(x))),
    UNARY("cvt.rni.f32.f32", float, float, rintf(x)),
    UNARY("cvt.sat.f32.f32", float, float, isnan(x) ? 0 : fminf(fmaxf(x, 0), 1)),
    UNARY("cvt.rn.bf16.f32", uint16_t, float, to_bf16(x)),
    BINARY("cvt.rn.bf16x2.f32", uint32_t, float, (uint32_t) to_bf16(x) << 16 | to_bf16(y)),
    UNARY("cvt.f32.bf16", float, uint16_t, of_bf16(x)),
};

/* Those of memory without vector and type, which are in the instruction (read.cpp). */
static const std::map<std::string, struct operation> others = {
    {"ld.param", {0, 0, load_parameter}},
    {"ld.global", {0, 0, load_global}},
    {"ld.shared", {0, 0, load_shared}},
    {"st.global", {0, 0, store_global}},
    {"st.shared", {0, 0, store_shared}},
    {"pack", {0, 0, pack}},
    {"unpack", {0, 0, unpack}},
    {"atom.global.add.u32", {1, 1, atomic_add}},
    {"cp.async.cg.shared.global", {0, 2, begin_copy_16}},
    {"cp.async.ca.shared.global", {0, 2, begin_copy}},
    {"cp.async.wait_all", {0, 0, wait_copies}},
    {"bar.warp.sync", {0, 1, meet}},
    {"shfl.sync.bfly.b32", {2, 4, shuffle}},
    {"vote.sync.ballot.b32", {1, 2, vote}},
    {"ldmatrix.sync.aligned.m8n8.x4.shared.b16", {4, 0, load_rows}},
    {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", {4, 0, load_columns}},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", {4, 10, multiply_matrices}},
};

const struct operation *ptx_operation(const std::string &opcode)
{
    for (const auto *table : {&integers, &floats, &others}) {
        auto found = table->find(opcode);

        if (found != table->end())
            return &found->second;
    }
    return NULL;
}
