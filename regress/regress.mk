# Everything that checks.  Kernel tests: regress/kernels/test_*.c, each a program that prints TAP.
KERNEL_TESTS = $(patsubst regress/kernels/%.c,build/regress/%,$(wildcard regress/kernels/test_*.c))

build/regress/%: regress/kernels/%.c build/libkernels.a
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -Iregress/kernels -o $@ $< build/libkernels.a $(KERNEL_LIBS)

kernel-tests: $(KERNEL_TESTS)
.PHONY: kernel-tests
