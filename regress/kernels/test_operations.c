/* Every operation of every backend of this machine's CPU against the reference. */
#include "operations.h"

int main(void)
{
    const struct backend *backends[BACKEND_MOST];
    int count = backend_list(backends);

    for (int i = 0; i < count; i++)
        check_backend(backends[i]);
    return tap_end();
}
