"""Vectors of eight floats in Numba kernels.

LLVM vectorises Numba's simple loops. With branches and scattered memory accesses it usually gives up without a warning,
at a fifth of the speed. Here a vector is a Numba type: `load8`, `+`, `select8` and the others each become one LLVM
vector instruction, which LLVM splits on processors with shorter vectors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from sds3d.rendering import llvm
from sds3d.rendering.llvm import FAST, FLOAT, FLOAT8, add, broadcast, lanes, mul, shuffled, sub

inlined: Any = intrinsic  # typed as Any because callers leave out the typing context
_typed: Any = infer_global  # typed as Any because Numba does not annotate it

# ---- scalars ----


@inlined
def exp_minus(typing_context, x):
    """Return exp(-x) for x >= 0, inlined: a call to the C library would spill every vector register."""
    return types.float32(types.float32), lambda context, builder, signature, arguments: llvm.exp_minus(
        builder, arguments[0]
    )


@inlined
def next_item(typing_context, counter):
    """Return counter[0] and increment it atomically. counter: int64 array shared by threads."""

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), codegen


@inlined
def lowest_bit(typing_context, bits):
    """Return the index of the lowest set bit of a nonzero int64."""

    def codegen(context, builder, signature, arguments):
        kind = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind, ir.IntType(1)]), "llvm.cttz.i64"
        )
        return builder.call(function, [arguments[0], ir.Constant(ir.IntType(1), 1)])

    return types.int64(types.int64), codegen


@inlined
def count_bits(typing_context, bits):
    """Return how many bits of an int64 are set."""

    def codegen(context, builder, signature, arguments):
        kind = ir.IntType(64)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), "llvm.ctpop.i64")
        return builder.call(function, [arguments[0]])

    return types.int64(types.int64), codegen


# ---- eight floats or eight booleans as a Numba type ----


class Float8(types.Type):
    """Eight float32 in one vector register."""

    def __init__(self) -> None:
        super().__init__(name="Float8")


class Bool8(types.Type):
    """Eight booleans: the result of comparing two Float8."""

    def __init__(self) -> None:
        super().__init__(name="Bool8")


float8, bool8 = Float8(), Bool8()


@register_model(Float8)
class _Float8Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOAT8)


@register_model(Bool8)
class _Bool8Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), 8))


def _define(function: Any, result: Any, build: Callable[[Any, Any, Any], Any]) -> None:
    """Define `function` for two Float8, and for a Float8 and a float32, which is broadcast."""
    kinds = [(float8, float8), (float8, types.float32), (types.float32, float8)]

    class Template(ConcreteTemplate):
        cases = [signature(result, *pair) for pair in kinds]  # noqa: RUF012

    _typed(function)(Template)

    def lower(context, builder, signature, arguments):
        a, b = (
            value if kind == float8 else broadcast(builder, value)
            for value, kind in zip(arguments, signature.args, strict=True)
        )
        return build(builder, a, b)

    for pair in kinds:
        lower_builtin(function, *pair)(lower)


_define(operator.add, float8, add)
_define(operator.sub, float8, sub)
_define(operator.mul, float8, mul)
_define(operator.truediv, float8, lambda builder, a, b: builder.fdiv(a, b, flags=FAST))
_define(operator.lt, bool8, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_define(operator.le, bool8, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_define(operator.gt, bool8, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_define(operator.ge, bool8, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))


@_typed(operator.and_)
class _AndTemplate(ConcreteTemplate):
    cases = [signature(bool8, bool8, bool8)]  # noqa: RUF012


@lower_builtin(operator.and_, bool8, bool8)
def _and(context, builder, signature, arguments):
    return builder.and_(*arguments)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, width: int = 8) -> Any:
    """Return the address of array[index] from an intrinsic's first two arguments; the array is float32, contiguous."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), ir.VectorType(FLOAT, width).as_pointer())


@inlined
def load8(typing_context, array, index):
    """Return array[index : index + 8] of a contiguous float32 array. Bounds are not checked."""

    def codegen(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature, arguments), align=4)

    return float8(array, types.int64), codegen


@inlined
def store8(typing_context, array, index, value):
    """Set array[index : index + 8] = value."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, float8), codegen


@inlined
def store4(typing_context, array, index, value):
    """Set array[index : index + 4] to the first four lanes of value."""

    def codegen(context, builder, signature, arguments):
        half = lanes(builder, arguments[2], (0, 1, 2, 3))
        builder.store(half, _pointer(context, builder, signature, arguments, 4), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, float8), codegen


@inlined
def load4(typing_context, array, index):
    """Return array[index : index + 4] followed by four zeros."""

    def codegen(context, builder, signature, arguments):
        half = builder.load(_pointer(context, builder, signature, arguments, 4), align=4)
        return shuffled(builder, half, ir.Constant(half.type, [0.0] * 4), (0, 1, 2, 3, 4, 5, 6, 7))

    return float8(array, types.int64), codegen


@inlined
def lane8(typing_context, vector, index):
    """Return one lane. The index must be a literal."""

    def codegen(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], ir.IntType(32)))

    return types.float32(float8, types.int64), codegen


@inlined
def splat8(typing_context, value):
    """Return a float32 in all eight lanes."""
    return float8(types.float32), lambda context, builder, signature, arguments: broadcast(builder, arguments[0])


@inlined
def iota8(typing_context):
    """Return 0, 1, ..., 7."""
    return float8(), lambda context, builder, signature, arguments: ir.Constant(FLOAT8, [float(i) for i in range(8)])


@inlined
def select8(typing_context, mask, yes, no):
    """Return, per lane, `yes` where the mask is true and `no` elsewhere."""
    return float8(bool8, float8, float8), lambda context, builder, signature, arguments: builder.select(*arguments)


@inlined
def min8(typing_context, a, b):
    """Return the smaller of a and b per lane, b where a is NaN."""

    def codegen(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return float8(float8, float8), codegen


@inlined
def max8(typing_context, a, b):
    """Return the larger of a and b per lane, b where a is NaN."""

    def codegen(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return float8(float8, float8), codegen


@inlined
def sqrt8(typing_context, x):
    """Return the square root per lane."""
    return float8(float8), lambda context, builder, signature, arguments: _of_lanes(builder, "sqrt", arguments[0])


@inlined
def floor8(typing_context, x):
    """Return the largest integer not above x, per lane."""
    return float8(float8), lambda context, builder, signature, arguments: _of_lanes(builder, "floor", arguments[0])


@inlined
def ceil8(typing_context, x):
    """Return the smallest integer not below x, per lane."""
    return float8(float8), lambda context, builder, signature, arguments: _of_lanes(builder, "ceil", arguments[0])


def _of_lanes(builder: Any, name: str, x: Any) -> Any:
    kind = ir.FunctionType(FLOAT8, [FLOAT8])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v8f32"), [x])


@inlined
def log8(typing_context, x):
    """Return ln x per lane for positive normal numbers, accurate to 2e-7 max(1, |ln x|)."""

    def codegen(context, builder, signature, arguments):
        integer = ir.VectorType(ir.IntType(32), 8)

        def whole(value: int) -> Any:
            return ir.Constant(integer, [value] * 8)

        def real(value: float) -> Any:
            return ir.Constant(FLOAT8, [float(np.float32(value))] * 8)

        # x = 2^exponent m, m between sqrt(1/2) and sqrt(2); ln m = 2 artanh((m - 1) / (m + 1))
        bits = builder.bitcast(arguments[0], integer)
        exponent = builder.ashr(builder.sub(bits, whole(int(np.float32(0.5**0.5).view(np.int32)))), whole(23))
        m = builder.bitcast(builder.sub(bits, builder.shl(exponent, whole(23))), FLOAT8)
        t = builder.fdiv(sub(builder, m, real(1)), add(builder, m, real(1)))
        square = mul(builder, t, t)
        series = real(2 / 9)
        for odd in (7, 5, 3, 1):
            series = add(builder, mul(builder, series, square), real(2 / odd))
        whole_part = mul(builder, builder.sitofp(exponent, FLOAT8), real(np.log(2)))
        return add(builder, whole_part, mul(builder, series, t))

    return float8(float8), codegen


@inlined
def bits8(typing_context, mask):
    """Return the mask as the low eight bits of an int64, lane 0 lowest."""

    def codegen(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(8)), ir.IntType(64))

    return types.int64(bool8), codegen


@inlined
def exp2_8(typing_context, power):
    """Return 2^power per lane. Undefined for powers outside [-126, 127]."""
    return float8(float8), lambda context, builder, signature, arguments: llvm.exp2(builder, arguments[0])


@inlined
def minus_abs8(typing_context, x):
    """Return -|x| per lane."""

    def codegen(context, builder, signature, arguments):
        bits = ir.VectorType(ir.IntType(32), 8)
        minus = builder.or_(builder.bitcast(arguments[0], bits), ir.Constant(bits, [1 << 31] * 8))
        return builder.bitcast(minus, FLOAT8)

    return float8(float8), codegen


@inlined
def sums8(typing_context, v0, v1, v2, v3, v4, v5, v6, v7):
    """Return a vector with the sum of vector i in lane i: eight horizontal sums in seven additions."""

    def codegen(context, builder, signature, arguments):
        level = list(arguments)
        # Add even and odd lanes of two vectors, three times. The sums end up in the order of the vectors.
        even, odd = (0, 2, 4, 6, 8, 10, 12, 14), (1, 3, 5, 7, 9, 11, 13, 15)
        while len(level) > 1:
            level = [
                add(builder, shuffled(builder, a, b, even), shuffled(builder, a, b, odd))
                for a, b in zip(level[::2], level[1::2], strict=True)
            ]
        return level[0]

    return float8(*[float8] * 8), codegen


# ---- eight rows of a contiguous array, as columns ----


def _rows(width: int) -> tuple[Any, Any]:
    """Return the intrinsics that load and store eight rows of an array (..., width) as `width` Float8."""
    columns, flat = types.UniTuple(float8, width), ir.VectorType(FLOAT, 8 * width)

    def place(context: Any, builder: Any, signature: Any, arguments: Any, kind: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.mul(arguments[1], ir.Constant(ir.IntType(64), width))
        return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())

    @inlined
    def load(typing_context, array, row):
        def codegen(context, builder, signature, arguments):
            rows = builder.load(place(context, builder, signature, arguments, flat), align=4)
            parts = [lanes(builder, rows, tuple(range(k, 8 * width, width))) for k in range(width)]
            return context.make_tuple(builder, columns, parts)

        return columns(array, types.int64), codegen

    @inlined
    def store(typing_context, array, row, values):
        def codegen(context, builder, signature, arguments):
            parts = cgutils.unpack_tuple(builder, arguments[2])
            if isinstance(signature.args[0].dtype, types.Integer):
                parts = [builder.fptosi(part, ir.VectorType(ir.IntType(32), 8)) for part in parts]
            kind = ir.VectorType(parts[0].type.element, 8 * width)
            pointer = place(context, builder, signature, arguments, kind)
            while len(parts) > 1:  # join neighbours until one vector is left
                parts.extend([ir.Constant(parts[0].type, ir.Undefined)] * (len(parts) % 2))
                joined = tuple(range(2 * parts[0].type.count))
                parts = [shuffled(builder, a, b, joined) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            order = tuple(8 * k + row for row in range(8) for k in range(width))
            builder.store(lanes(builder, parts[0], order), pointer, align=4)
            return context.get_dummy_value()

        return types.void(array, types.int64, columns), codegen

    return load, store


load_rows2, store_rows2 = _rows(2)
load_rows3, store_rows3 = _rows(3)
load_rows4, store_rows4 = _rows(4)
