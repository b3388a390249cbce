"""Makes regress/oracle/fragments.h: which elements the lanes of a warp hold for ldmatrix.x4 and mma.m16n8k16.

Needs the headers of NVIDIA's CUTLASS (4.2) and of CUDA (13.0), g++, and triton (3.9); run from the checkout:
python regress/oracle/fragments.py CUTLASS/include CUDA/include > regress/oracle/fragments.h
CUTLASS has the layouts as types, from which its own kernels are made; a program that is compiled here asks them element by
element.  Triton's layouts of mma, of other authors, must agree, else nothing is written.
"""
import itertools
import subprocess
import sys
import tempfile

from triton._C.libtriton import gluon_ir, ir
from triton.experimental.gluon import language as gluon

# Matrices of CuTe are numbered down their columns, copies by bits.
PROGRAM = """
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cstdio>
using namespace cute;

template <class L> void print(L layout, int step)
{
    for (int lane = 0; lane < size<0>(layout); lane++)
        for (int value = 0; value < size<1>(layout); value += step)
            printf("%d%c", int(layout(lane, value)), value + step < size<1>(layout) ? ' ' : '\\n');
}

int main()
{
    using Mma = MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>;
    using Rows = Copy_Traits<SM75_U32x4_LDSM_N>;
    using Columns = Copy_Traits<SM75_U16x8_LDSM_T>;
    print(Mma::ALayout{}, 1);
    print(Mma::BLayout{}, 1);
    print(Mma::CLayout{}, 1);
    print(Rows::SrcLayout{}, 16);
    print(Rows::DstLayout{}, 16);
    print(Columns::SrcLayout{}, 16);
    print(Columns::DstLayout{}, 16);
}
"""


def cutlass(*include):
    """Seven tables [lane][value]."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [f"-I{path}" for path in include] + [f"-I{include[1]}/cccl"]
        subprocess.run(["g++", "-std=c++17", "-w", "-x", "c++", *folders, "-", "-o", f"{folder}/layouts"],
                       input=PROGRAM.encode(), check=True)
        out = subprocess.run([f"{folder}/layouts"], capture_output=True, check=True, text=True).stdout
    lines = [[int(x) for x in line.split()] for line in out.splitlines()]
    return [lines[i : i + 32] for i in range(0, len(lines), 32)]


def by_rows(table, rows, columns):
    """The element's number along rows, from that down columns."""
    return [[x % rows * columns + x // rows for x in line] for line in table]


def loaded(source, destination):
    """Lane that has the row's address * 8 + column of what a lane gets."""
    lane_of = {bit: lane * 8 + column for lane, line in enumerate(source) for column, bit in enumerate(line)}
    return [[lane_of[bit] for bit in line] for line in destination]


def triton():
    """The tables of A, B and C."""
    context = ir.context()
    ir.load_dialects(context)
    builder = gluon_ir.GluonOpBuilder(context)
    mma = gluon.NVMMADistributedLayout([2, 0], [1, 1], [16, 8])
    for layout, shape in (gluon.DotOperandLayout(0, mma, 2), [16, 16]), (gluon.DotOperandLayout(1, mma, 2), [16, 8]), (mma, [16, 8]):
        linear = builder.to_linear_layout(layout._to_ir(builder), shape)
        table = []
        for lane, value in itertools.product(range(32), range(2 ** len(linear.reg_bases))):
            bases = [b for i, b in enumerate(linear.lane_bases) if lane >> i & 1]
            bases += [b for i, b in enumerate(linear.reg_bases) if value >> i & 1]
            row, column = (sum(b[axis] for b in bases) for axis in (0, 1))
            table.append(row * shape[1] + column)
        each = len(table) // 32
        yield [table[i : i + each] for i in range(0, len(table), each)]


def main():
    a, b, c, *copies = cutlass(*sys.argv[1:])
    tables = dict(a=by_rows(a, 16, 16), b=b, c=by_rows(c, 16, 8))  # CuTe's B is the transpose of ours
    if list(tables.values()) != list(triton()):
        sys.exit("CUTLASS and Triton disagree")
    tables.update(ldmatrix=loaded(*copies[:2]), ldmatrix_trans=loaded(*copies[2:]))
    print("/* Made by fragments.py with CUTLASS 4.2.0 and Triton 3.9.0; do not edit.\n"
          " * oracle_a [16][16], oracle_b [16][8], oracle_c [16][8] of mma.m16n8k16: the elements, numbered along rows, that a lane\n"
          " * holds, two of A and B to a register.  oracle_ldmatrix, with .trans: 8 times the lane that has the row's address, plus\n"
          " * the column, of what a lane gets, two to a register. */")
    for name, table in tables.items():
        print(f"static const int oracle_{name}[32][{len(table[0])}] = {{")
        for line in table:
            print("    {" + ", ".join(map(str, line)) + "},")
        print("};\n")


if __name__ == "__main__":
    main()
