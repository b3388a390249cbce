/*
 * The PTX that nvcc makes of a kernel, run on the host in place of what g++ makes of it: programs (read.cpp),
 * what instructions do (execute.cpp), memory and who may touch it (memory.cpp), blocks and warps (launch.cpp,
 * in place of cuda_shim/shim.cpp's shim_launch).  Everything else is cuda_shim's.
 *
 * What a chip faults at, leaves undefined or does in no certain order, and every instruction, modifier,
 * operand or directive that is not known here, ends the process with the text of the instruction.
 * All of it runs under the lock of cuda_shim/runtime.cpp: one launch at a time.
 */
#ifndef PTX_H
#define PTX_H

#include <cuda_runtime.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#define WARP      32
#define ALL_LANES 0xffffffffu

struct warp;
struct instruction;

/* Does an instruction for some lanes, a bit each. */
typedef void execute(struct warp &warp, const struct instruction &i, uint32_t lanes);

/* What an opcode is: how many registers it writes and operands it reads, without addresses. */
struct operation {
    int n_out, n_in;
    execute *run;
};

/* [slot + offset], or [parameter + offset] */
struct address {
    int slot = -1, parameter = -1;
    int64_t offset = 0;
};

enum flow { NEXT, BRANCH, RETURN, BARRIER };

/* Operands are slots: 32 values, one a lane, be they registers or constants. */
struct instruction {
    std::string text;
    enum flow flow = NEXT;
    execute *run = NULL;
    int guard = -1; /* slot of a predicate */
    bool negated = false;
    int n_out = 0, n_in = 0, out[4], in[10];
    struct address at[2];
    int n_at = 0;
    uint32_t size = 0; /* bytes of an element in memory */
    bool is_signed = false;
    uint32_t target = 0; /* of a branch */
};

struct kernel {
    std::string name, body;
    std::vector<size_t> parameters; /* bytes */
    std::map<std::string, int> parameter_of, slot_of;
    std::set<std::string> registers;        /* as they are declared: without numbers */
    std::map<int, uint64_t> constants;      /* by slot */
    std::map<std::string, uint32_t> shared; /* where each variable is */
    uint32_t shared_bytes = 0, most_threads = 0;
    std::vector<struct instruction> code; /* ends with ret; empty: not decoded yet */
};

/* A copy of `bytes` bytes, then zeros up to `size`, for which its thread has not waited yet. */
struct copy {
    uint32_t to, size, bytes;
    const char *from;
};

struct warp {
    uint32_t number;
    uint32_t live, waiting;      /* lanes; waiting at a barrier of the block */
    uint32_t passes;             /* barriers of the warp so far */
    uint32_t pc[WARP];           /* of each lane */
    std::vector<uint64_t> slots; /* [slot][lane] */
    std::vector<struct copy> copies[WARP];
    const struct shim_kernel *call; /* which has the parameters' values */

    uint64_t &at(int slot, uint32_t lane)
    {
        return slots[(size_t) slot * WARP + lane];
    }
};

/* Ends the process: the kernel and block that run, the instruction, what is wrong. */
[[noreturn]] void ptx_refuse(const struct instruction &i, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- read.cpp ---- */

/* The kernel of that (mangled) name in that file, decoded. */
const struct kernel &ptx_kernel(const std::string &file, const std::string &name);

/* ---- execute.cpp ---- */

/* By opcode with all its modifiers; NULL: not known. */
const struct operation *ptx_operation(const std::string &opcode);

/* ---- memory.cpp ---- */

/* A block begins, with so much shared memory that nobody has written. */
void shared_begin(uint32_t bytes);

/* All threads of the block have met. */
void shared_barrier();

/* Where shared memory is that a lane reads or writes; checked: bounds, alignment, races, and that what it
 * reads was written. */
char *shared_access(const struct instruction &i, const struct warp &warp, uint32_t lane, uint32_t at,
                    uint32_t bytes, bool write);

/* What a copy that has begun makes of its target: nobody may read it. */
void shared_forget(uint32_t at, uint32_t bytes);

/* Where global memory is; checked: bounds (those of the allocation, to the byte) and alignment. */
char *global_access(const struct instruction &i, uint64_t at, uint32_t bytes);

/* A launch begins: allocations may have changed. */
void global_begin();

#endif
