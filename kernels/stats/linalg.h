/*
 * Dense linear algebra of a few columns: triangular factors, solves, symmetric eigenvalues.  Matrices are
 * row-major double; no allocation.  Vectors of at most TLAW_LINALG_MAX entries.
 */
#ifndef TLAW_LINALG_H
#define TLAW_LINALG_H

#include <stdbool.h>
#include <stddef.h>

#define TLAW_LINALG_MAX 12

/*
 * Folds `rows` further rows into a QR factorisation: r (columns x columns, upper triangle; zero at the start)
 * becomes the triangle of [r; block] by Householder reflections.  block (rows x columns) is destroyed.
 */
void tlaw_qr_fold(double *r, int columns, double *block, size_t rows);

/* Solves R x = b (upper triangle of an array with `stride` columns); false when R is singular to working
 * precision. */
bool tlaw_solve_upper(const double *r, int stride, int n, const double *b, double *x);
/* Solves R' x = b; false when singular. */
bool tlaw_solve_upper_transposed(const double *r, int stride, int n, const double *b, double *x);

/* inverse (n x n) of R'R, R the upper triangle of an array with `stride` columns; false when singular. */
bool tlaw_inverse_of_gram(const double *r, int stride, int n, double *inverse);

/* Eigenvalues, ascending, of a symmetric n x n matrix (cyclic Jacobi); vectors, if not NULL, in columns. a is
 * kept. */
void tlaw_symmetric_eigen(const double *a, int n, double *values, double *vectors);

/* v' A v for a symmetric n x n matrix. */
double tlaw_quadratic_form(const double *a, int n, const double *v);

#endif
