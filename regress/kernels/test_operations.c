/*
 * Every operation of every backend of this machine's CPU against the reference.  Argument: the largest shape,
 * as the product of its sizes, for emulated machines.
 */
#include "operations.h"

int main(int argc, char **argv)
{
    const struct backend *backends[BACKEND_MOST];
    int count = backend_list(backends);

    if (argc > 1)
        largest_shape = atof(argv[1]);
    for (int i = 0; i < count; i++)
        check_backend(backends[i]);
    return tap_end();
}
