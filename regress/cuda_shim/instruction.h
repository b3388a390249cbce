/*
 * kernels/backend/cuda/instruction.h on the host: what the PTX ISA says each instruction does
 * (instruction.cpp).  What it leaves undefined ends the test: rows or copies that are not aligned, memory
 * that is not shared, a warp whose lanes are not all there (shim.cpp); and rows that lie in the same banks,
 * which is only slow.
 */
#ifndef SHIM_INSTRUCTION_H
#define SHIM_INSTRUCTION_H

#include <cuda_runtime.h>

void ldmatrix_x4(uint32_t out[4], const void *row);
void ldmatrix_x4_trans(uint32_t out[4], const void *row);
void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2]);
void cp_async_16(void *to, const void *from, int bytes);
void cp_async_4(void *to, const void *from, int bytes);
void cp_async_wait_all();
float ex2(float x);

/* Whether a thread has copies that it did not wait for. */
bool shim_copies_wait(unsigned thread);

#endif
