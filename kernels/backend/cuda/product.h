/* Row-major matrix products, for operations that are made of them; see product.cu. */
#ifndef TLAW_CUDA_PRODUCT_H
#define TLAW_CUDA_PRODUCT_H

#include "kernel.h"

/* A matrix of elements T as it lies in memory; transposed: the product reads it the other way round. */
struct operand {
    const void *at;
    int ld;
    bool transposed;

    struct operand turned() const
    {
        return operand{at, ld, !transposed};
    }
};

/* Where a product goes and what is done to it first; one of as_act and as_real. */
struct result {
    act *as_act;
    real *as_real;
    int ld;                /* length of its rows; 0: N */
    bool accumulate;       /* as_real += */
    const real *bias;      /* added to every row */
    const void *bias_in_t; /* the same as T, aligned; read instead when the result is an act */
    act *pre;              /* keeps the sum, and the result is its gelu */
    const act *slope;      /* the result is multiplied by gelu' of it */
};

/* The row length, in elements T, that keeps rows aligned. */
template <class T> int padded(int columns);
/* in[rows, columns] as an operand: where it lies if it is aligned, else copied to that scratch. */
template <class T>
struct operand act_operand(struct device *, enum scratch, const act *in, int rows, int columns);
template <class T>
struct operand real_operand(struct device *, enum scratch, const real *in, int rows, int columns);
/* The same for weights, which may be there as T already. */
template <class T>
struct operand weight_operand(struct device *, enum scratch, const real *w, int rows, int columns);
/* out[M,N] = x[M,K] w[K,N], the operands as the product reads them */
template <class T>
void multiply(struct device *, int M, int N, int K, struct operand x, struct operand w, struct result out);

#endif
