# Everything that checks and everything that shows.
PACKAGES_BUILD = postgresql-@ postgresql-server-dev-@ libpcre2-dev libssl-dev
PACKAGES_TEST = $(PACKAGES_BUILD) g++ postgresql-@-pgtap perl python3 xz-utils
PACKAGES_DEMO = $(PACKAGES_BUILD) perl postgresql-doc

# Kernel tests: regress/kernels/test_*.c, each a program that prints TAP.
KERNEL_TESTS = $(patsubst regress/kernels/%.c,build/regress/%,$(wildcard regress/kernels/test_*.c))

build/regress/%: regress/kernels/%.c build/libkernels.a
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -Iregress/kernels -o $@ $< build/libkernels.a $(KERNEL_LIBS)

# The model on the reference backend in float64, for finite differences.
DOUBLE_OBJS = $(patsubst %.c,build/double/%.o,kernels/backend/reference.c kernels/engine/spec.c $(wildcard kernels/model/*.c))
build/double/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -DTLAW_DOUBLE -c $< -o $@
build/double/libkernels.a: $(DOUBLE_OBJS)
	rm -f $@; $(AR) rcs $@ $^

build/regress/test_gradients: regress/kernels/test_gradients.c build/double/libkernels.a
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -DTLAW_DOUBLE -o $@ $^ -lm

# The AMX backend on a model of the tiles in C (regress/amx_model), its memory fenced by the test.
ifneq ($(filter amx,$(ISAS)),)
ISA_SRCS_amx_model = $(ISA_SRCS_amx)
ISA_FLAGS_amx_model = $(ISA_FLAGS_avx512_bf16) -DAMX -Iregress/amx_model
$(eval $(call isa_rule,amx_model))
build/regress/test_amx: $(call isa_objs,amx_model)
build/regress/test_amx: private KERNEL_LIBS := $(call isa_objs,amx_model) build/libkernels.a -Wl,--wrap=posix_memalign,--wrap=free $(KERNEL_LIBS)
endif

# What of kernels/ needs no library, for arm64, and tests of it, where there is a cross compiler; regress/tap/080_arm64.pl runs
# them under qemu-aarch64.
ARM64_CC = aarch64-linux-gnu-gcc
ARM64_FLAGS = $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -Werror -ffunction-sections
ARM64_SRCS = kernels/engine/spec.c kernels/text/corpus_file.c kernels/text/radix_sort.c \
             $(filter kernels/model/% kernels/stats/% kernels/backend/%,$(KERNEL_SRCS))
ARM64_OBJS = $(ARM64_SRCS:%.c=build/arm64/%.o) $(call isa_objs,portable,build/arm64) $(call isa_objs,neon,build/arm64)
ARM64_TESTS = $(addprefix build/arm64/,test_operations test_gemm test_threads test_trainer)
define arm64_rule
build/arm64/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(ARM64_CC) $$(ARM64_FLAGS) -DISA=$(1) $$(ISA_FLAGS_$(1)) -c $$< -o $$@
endef
$(foreach isa,portable neon,$(eval $(call arm64_rule,$(isa))))
build/arm64/%.o: %.c
	@mkdir -p $(@D)
	$(ARM64_CC) $(ARM64_FLAGS) -c $< -o $@
build/arm64/libkernels.a: $(ARM64_OBJS)
	rm -f $@; $(AR) rcs $@ $^
$(ARM64_TESTS): build/arm64/%: regress/kernels/%.c build/arm64/libkernels.a
	$(ARM64_CC) $(ARM64_FLAGS) -Wl,--gc-sections -o $@ $^ -lpthread -lm -ldl
arm64-tests: $(ARM64_TESTS)

# The CUDA backend compiled for the host, beside the test that finds it there; without a C++ compiler: skipped.
SHIM_OBJS = $(patsubst %,build/regress/cuda_shim/%.o,$(notdir $(CUDA_SRCS) $(wildcard regress/cuda_shim/*.cpp)))
SHIM_SIZES = -DLOGITS_BYTES=262144 -DGRADIENT_BYTES=1048576 -DLEAST_ROWS=128 -DKNN_TILE=128 -DKNN_ROOM=256
SHIM_FLAGS = -std=c++20 -O2 -g -fno-strict-aliasing -Wall -Wextra -Wno-sign-compare -Wno-unknown-pragmas -fPIC \
             -fvisibility=hidden -MMD -MP -Iregress/cuda_shim $(SHIM_SIZES)
SHIM_CHECKS = -fsanitize=alignment -fsanitize-undefined-trap-on-error
vpath %.cu kernels/backend/cuda regress/kernels
vpath %.cpp regress/cuda_shim
build/regress/cuda_shim/%.o: %
	@mkdir -p $(@D)
	$(CXX) -x c++ $(SHIM_FLAGS) $(if $(filter %.cu,$<),$(SHIM_CHECKS)) -c $< -o $@
build/regress/tlaw_cuda.so: $(SHIM_OBJS)
	$(CXX) -shared -o $@ $^
build/regress/test_fragment: $(patsubst %,build/regress/cuda_shim/%.o,test_fragment.cu $(notdir $(wildcard regress/cuda_shim/*.cpp)))
	$(CXX) -o $@ $^
ifneq ($(shell command -v $(CXX)),)
KERNEL_TESTS += build/regress/test_fragment
build/regress/test_cuda build/regress/test_cuda_knn: build/regress/tlaw_cuda.so
build/regress/test_cuda build/regress/test_cuda_knn: private KERNEL_FLAGS += -DNO_CUDA_HERE=0
else
build/regress/test_cuda build/regress/test_cuda_knn: private KERNEL_FLAGS += -DNO_CUDA_HERE=1
endif

# The same with the PTX that nvcc makes of the kernels, run by regress/ptx, in place of what g++ makes of them.
PTX_TESTS = $(addprefix build/regress/ptx/,test_controls test_fragment test_cuda test_cuda_knn)
PTX_OBJS = $(patsubst %,build/%.o,$(wildcard regress/ptx/*.cpp))
vpath %.cu regress/ptx
build/regress/ptx/%.cpp.o: regress/ptx/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(SHIM_FLAGS) -fwrapv -ffp-contract=off -c $< -o $@
# __CUDACC__: as nvcc defines it for the host too, where test_fragment.cu leaves out what is no kernel
build/regress/ptx/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(CXX) -x c++ $(SHIM_FLAGS) -D__CUDACC__ -c $< -o $@
build/regress/ptx/%.ptx: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_LANGUAGE) $(SHIM_SIZES) -arch=compute_90 -ptx $< -o $@
build/regress/ptx/tlaw_cuda.so.ptx: $(patsubst %.cu,build/regress/ptx/%.ptx,$(notdir $(CUDA_SRCS)))
	cat $^ >$@
build/regress/ptx/tlaw_cuda.so: $(SHIM_OBJS) $(PTX_OBJS) build/regress/ptx/tlaw_cuda.so.ptx
	$(CXX) -shared -o $@ $(filter %.o,$^)
build/regress/ptx/test_cuda build/regress/ptx/test_cuda_knn: build/regress/ptx/%: build/regress/% build/regress/ptx/tlaw_cuda.so
	cp $< $@
build/regress/ptx/test_controls build/regress/ptx/test_fragment: %: %.cu.o %.ptx $(PTX_OBJS) $(filter %.cpp.o,$(SHIM_OBJS))
	$(CXX) -rdynamic -o $@ $(filter %.o,$^)

# make ptx-test: those alone; they are part of make test where there are both compilers and nvcc is of release 13,
# as another may write instructions that regress/ptx refuses.
ifneq ($(and $(NVCC),$(shell command -v $(CXX))),)
ifneq ($(findstring release 13.,$(shell $(NVCC) --version)),)
KERNEL_TESTS += $(PTX_TESTS)
endif
ptx-test: $(PTX_TESTS)
	@regress/run_tests.pl build/regress/ptx/
else
ptx-test:
	@echo "1..0 # SKIP no nvcc and g++ to compile the kernels with: give NVCC=the path of one"
endif
.PHONY: ptx-test

kernel-tests: $(KERNEL_TESTS)

# make test [TESTS="name ..."]: packages, build, a throw-away server, everything that checks.
test:
	@regress/packages.sh $(PACKAGES_TEST)
	@$(MAKE) -s --no-print-directory -j$$(nproc) all kernel-tests
	@regress/server.sh regress/run_tests.pl $(TESTS)

# make demo [TEXT=file] [KEEP=1]: a data-scaling study of real text.
demo:
	@regress/packages.sh $(PACKAGES_DEMO)
	@$(MAKE) -s --no-print-directory -j$$(nproc) all
	@regress/demo.sh $(if $(KEEP),--keep) $(TEXT)

# Against a running server where `make install` was done.
REGRESS = $(patsubst sql/%.sql,%,$(wildcard sql/*.sql))
installcheck:
	$(pg_regress_installcheck) $(REGRESS_OPTS) $(REGRESS)

# make bench: training on this CPU against PyTorch where there is one, then the time of every operation.
build/regress/bench/%: regress/bench/%.c build/libkernels.a
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -o $@ $< build/libkernels.a $(KERNEL_LIBS)
bench: build/regress/bench/step
	@python3 regress/bench/bench.py $< $(BENCH_ARGS)

# make bench-study: 20 small runs, a worker a core, against the same ones after another with all cores; by size of the model.
bench-study: all
	@regress/server.sh -o log_min_messages=debug1 -o 'log_line_prefix=%n [%p] ' python3 regress/bench/study.py $(BENCH_ARGS)

# make gpu-build [GPU_POSTGRES=archive]: build/gpu, which can be carried to a machine with a GPU that has neither compiler
# nor PostgreSQL nor network; see regress/gpu/test.sh and bench.py there, which `make gpu-test [GPU_ARGS="-t 500 runs"]` and
# `make gpu-bench` call.  make gpu-test-host: the same test with the backend that is compiled for the host.
GPU_PROGRAMS = $(addprefix build/gpu_programs/,tlaw_engine test_cuda test_cuda_knn check_run step search)
GPU_LIBS = -Wl,-Bstatic -lpcre2-8 -lcrypto -Wl,-Bdynamic -lpthread -lm -ldl
vpath %.c regress/kernels regress/gpu regress/bench
build/gpu_programs/tlaw_engine: build/kernels/engine/main.o build/libkernels.a
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -o $@ $^ $(GPU_LIBS)
build/gpu_programs/%: %.c build/libkernels.a
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -DNO_CUDA_HERE=0 -Iregress/kernels -o $@ $< build/libkernels.a $(GPU_LIBS)
ifneq ($(NVCC),)
build/gpu_programs/test_fragment: regress/kernels/test_fragment.cu
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_FLAGS) -Iregress/kernels -o $@ $<
gpu-build: all $(GPU_PROGRAMS) build/gpu_programs/test_fragment
	+@regress/gpu/pack.sh build/gpu build/gpu_programs tlaw_cuda.so $(GPU_POSTGRES)
else
gpu-build:
	@echo "gpu-build needs nvcc: give NVCC=the path of one" >&2; false
endif
gpu-test: gpu-build
	@regress/gpu/test.sh build/gpu $(GPU_ARGS)
gpu-bench: gpu-build
	@python3 regress/gpu/bench.py build/gpu $(BENCH_ARGS)
gpu-test-host: all $(GPU_PROGRAMS) build/regress/tlaw_cuda.so
	+@regress/gpu/pack.sh build/gpu_host build/gpu_programs build/regress/tlaw_cuda.so $(GPU_POSTGRES)
	@regress/gpu/test.sh build/gpu_host $(GPU_ARGS)
.PHONY: gpu-build gpu-test gpu-bench gpu-test-host

# make bench-knn: exact neighbours against FAISS and scikit-learn, where the Pythons in TLAW_PYTHON (comma-separated) have them.
# make bench-dimension: coverage of the intervals; build/regress/bench/dimension_calibration: behind the default estimator.
# make bench-law: coverage and width of the exponent's intervals where E >= 0, beside other kinds.
# make bench-plateau: sets with one dimension and with none; TLAW_PYTHON has numpy and scikit-dimension.
bench-knn: build/regress/bench/knn
	@python3 regress/bench/knn.py $< $${TLAW_PYTHON:-python3} $(BENCH_ARGS)
bench-dimension: build/regress/bench/dimension_coverage
	@$< $(BENCH_ARGS)
bench-law: build/regress/bench/law_coverage
	@$< $(BENCH_ARGS)
bench-plateau: build/regress/bench/dimension_plateau
	@$${TLAW_PYTHON:-python3} regress/bench/dimension_plateau.py $< $(BENCH_ARGS)

C_FILES = $(wildcard extension/*.[ch] kernels/*/*.[ch] kernels/backend/*/*.[ch] kernels/backend/cpu/amx/*.h kernels/backend/cuda/*.cu regress/*/*.[ch] regress/kernels/*.cu \
                     regress/cuda_shim/*.cpp regress/ptx/*.cpp regress/ptx/*.cu)
format:
	clang-format -i $(C_FILES)

lint: all kernel-tests
	regress/lint.sh $(C_FILES)

.PHONY: kernel-tests arm64-tests test demo installcheck format lint bench bench-study bench-knn bench-dimension bench-law bench-plateau
