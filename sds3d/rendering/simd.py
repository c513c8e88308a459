"""Vectors of eight floats inside Numba kernels.

Numba's loops are vectorised by LLVM where it can see how; in kernels with branches and scattered memory it mostly
cannot, silently, at a fifth of the speed. Here the vector is a type of its own: `load8`, `+`, `select8` and the rest
become one LLVM vector instruction each, on any CPU.
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

inlined: Any = intrinsic  # as Any, because callers leave out the typing context
_typed: Any = infer_global  # as Any, because Numba leaves its type out

# ---- scalars ----


@inlined
def exp_minus(typing_context, x):
    """exp(-x) for x >= 0 in line: a call of the C library would spill every vector register."""
    return types.float32(types.float32), lambda context, builder, signature, arguments: llvm.exp_minus(
        builder, arguments[0]
    )


@inlined
def next_item(typing_context, counter):
    """Take the next number from counter[0], an int64 array that several threads count on."""

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), codegen


@inlined
def lowest_bit(typing_context, bits):
    """Index of the lowest set bit of an int64 that is not 0."""

    def codegen(context, builder, signature, arguments):
        kind = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind, ir.IntType(1)]), "llvm.cttz.i64"
        )
        return builder.call(function, [arguments[0], ir.Constant(ir.IntType(1), 1)])

    return types.int64(types.int64), codegen


@inlined
def count_bits(typing_context, bits):
    """How many bits of an int64 are set."""

    def codegen(context, builder, signature, arguments):
        kind = ir.IntType(64)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), "llvm.ctpop.i64")
        return builder.call(function, [arguments[0]])

    return types.int64(types.int64), codegen


# ---- eight floats, or eight truths, as a Numba type ----


class Float8(types.Type):
    """Eight float32 in one vector register."""

    def __init__(self) -> None:
        super().__init__(name="Float8")


class Bool8(types.Type):
    """Eight truths: what comparing two Float8 gives."""

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
    """Teach Numba `function` of two Float8, or of a Float8 and a float32 that is broadcast."""
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
    """Where lanes begin in a one-dimensional float32 array, from an intrinsic's first two arguments."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), ir.VectorType(FLOAT, width).as_pointer())


@inlined
def load8(typing_context, array, index):
    """array[index : index + 8] of a contiguous float32 array; bounds are not checked."""

    def codegen(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature, arguments), align=4)

    return float8(array, types.int64), codegen


@inlined
def store8(typing_context, array, index, value):
    """array[index : index + 8] = value."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, float8), codegen


@inlined
def store4(typing_context, array, index, value):
    """array[index : index + 4] = the first four lanes of value."""

    def codegen(context, builder, signature, arguments):
        half = lanes(builder, arguments[2], (0, 1, 2, 3))
        builder.store(half, _pointer(context, builder, signature, arguments, 4), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, float8), codegen


@inlined
def load4(typing_context, array, index):
    """array[index : index + 4] and four zeros."""

    def codegen(context, builder, signature, arguments):
        half = builder.load(_pointer(context, builder, signature, arguments, 4), align=4)
        return shuffled(builder, half, ir.Constant(half.type, [0.0] * 4), (0, 1, 2, 3, 4, 5, 6, 7))

    return float8(array, types.int64), codegen


@inlined
def lane8(typing_context, vector, index):
    """One lane; the index is a literal."""

    def codegen(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], ir.IntType(32)))

    return types.float32(float8, types.int64), codegen


@inlined
def splat8(typing_context, value):
    """Eight times the same float32."""
    return float8(types.float32), lambda context, builder, signature, arguments: broadcast(builder, arguments[0])


@inlined
def iota8(typing_context):
    """0, 1, ..., 7."""
    return float8(), lambda context, builder, signature, arguments: ir.Constant(FLOAT8, [float(i) for i in range(8)])


@inlined
def select8(typing_context, mask, yes, no):
    """Lanes of `yes` where the mask is true, else of `no`."""
    return float8(bool8, float8, float8), lambda context, builder, signature, arguments: builder.select(*arguments)


@inlined
def min8(typing_context, a, b):
    """Lanes of the smaller; of b where a is NaN."""

    def codegen(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return float8(float8, float8), codegen


@inlined
def max8(typing_context, a, b):
    """Lanes of the larger; of b where a is NaN."""

    def codegen(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return float8(float8, float8), codegen


@inlined
def sqrt8(typing_context, x):
    """Square roots."""
    return float8(float8), lambda context, builder, signature, arguments: _of_lanes(builder, "sqrt", arguments[0])


@inlined
def floor8(typing_context, x):
    """The next integers below."""
    return float8(float8), lambda context, builder, signature, arguments: _of_lanes(builder, "floor", arguments[0])


@inlined
def ceil8(typing_context, x):
    """The next integers above."""
    return float8(float8), lambda context, builder, signature, arguments: _of_lanes(builder, "ceil", arguments[0])


def _of_lanes(builder: Any, name: str, x: Any) -> Any:
    kind = ir.FunctionType(FLOAT8, [FLOAT8])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v8f32"), [x])


@inlined
def log8(typing_context, x):
    """Natural logarithms of positive normal numbers, to 2e-7 of the larger of 1 and the result."""

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
    """The mask as the low eight bits of an int64, lane 0 the lowest."""

    def codegen(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(8)), ir.IntType(64))

    return types.int64(bool8), codegen


@inlined
def exp2_8(typing_context, power):
    """2^power; anything where power is not within -126 and 127."""
    return float8(float8), lambda context, builder, signature, arguments: llvm.exp2(builder, arguments[0])


@inlined
def minus_abs8(typing_context, x):
    """-|x|."""

    def codegen(context, builder, signature, arguments):
        bits = ir.VectorType(ir.IntType(32), 8)
        minus = builder.or_(builder.bitcast(arguments[0], bits), ir.Constant(bits, [1 << 31] * 8))
        return builder.bitcast(minus, FLOAT8)

    return float8(float8), codegen


@inlined
def sums8(typing_context, v0, v1, v2, v3, v4, v5, v6, v7):
    """Lane i is the sum of the lanes of vector i: eight horizontal sums by seven additions."""

    def codegen(context, builder, signature, arguments):
        level = list(arguments)
        # Halve by adding even and odd lanes of two vectors, thrice; the lanes end in the vectors' order.
        even, odd = (0, 2, 4, 6, 8, 10, 12, 14), (1, 3, 5, 7, 9, 11, 13, 15)
        while len(level) > 1:
            level = [
                add(builder, shuffled(builder, a, b, even), shuffled(builder, a, b, odd))
                for a, b in zip(level[::2], level[1::2], strict=True)
            ]
        return level[0]

    return float8(*[float8] * 8), codegen


# ---- eight rows of a contiguous array at a time, as columns ----


def _rows(width: int) -> tuple[Any, Any]:
    """For arrays (..., width): the loading of eight rows as `width` Float8, and their storing."""
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
            while len(parts) > 1:  # one after the other, two at a time
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
