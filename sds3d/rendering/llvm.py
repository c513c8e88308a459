"""LLVM instructions for hand-written kernels: vector lanes, arithmetic and exponentials."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

FLOAT, FLOAT8 = ir.FloatType(), ir.VectorType(ir.FloatType(), 8)
FAST = ("contract", "nsz", "arcp", "afn")
"""LLVM's fast-math flags, without nnan and ninf: a diverged scene must not crash."""


def broadcast(builder: Any, value: Any, width: int = 8) -> Any:
    """Return a vector with `value` in every lane."""
    vector = builder.insert_element(
        ir.Constant(ir.VectorType(FLOAT, width), ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def shuffled(builder: Any, first: Any, second: Any, indices: tuple[int, ...]) -> Any:
    """Return the chosen lanes of `first` followed by `second`."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), indices))


def lanes(builder: Any, vector: Any, indices: tuple[int, ...]) -> Any:
    """Return the chosen lanes of a vector."""
    return shuffled(builder, vector, ir.Constant(vector.type, ir.Undefined), indices)


def lane(builder: Any, vector: Any, index: int) -> Any:
    """Return one lane of a vector."""
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), index))


def add(builder: Any, a: Any, b: Any) -> Any:
    """Return a + b."""
    return builder.fadd(a, b, flags=FAST)


def sub(builder: Any, a: Any, b: Any) -> Any:
    """Return a - b."""
    return builder.fsub(a, b, flags=FAST)


def mul(builder: Any, a: Any, b: Any) -> Any:
    """Return a b."""
    return builder.fmul(a, b, flags=FAST)


# A polynomial for 2^x on [-1/2, 1/2], accurate to 3e-9: it interpolates at the Chebyshev nodes.
_EXP2 = np.polynomial.Chebyshev.interpolate(np.exp2, 6, domain=[-0.5, 0.5]).convert(kind=np.polynomial.Polynomial).coef


def exp2(builder: Any, power: Any) -> Any:
    """Return 2^power of a float or a vector, accurate to 2e-7 (relative). Undefined for powers outside [-126, 127]."""
    is_vector = isinstance(power.type, ir.VectorType)
    integer = ir.VectorType(ir.IntType(32), power.type.count) if is_vector else ir.IntType(32)

    def constant(value: float, kind: Any = power.type) -> Any:
        return ir.Constant(kind, [value] * power.type.count if is_vector else value)

    def real(value: float) -> Any:
        return constant(float(np.float32(value)))

    # Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. This must be exact, hence no fast flags.
    rounded = builder.fadd(power, real(12582912.0))
    x = builder.fsub(power, builder.fsub(rounded, real(12582912.0)))  # in [-1/2, 1/2]
    # Evaluate the terms in pairs: this has less latency than one after the other.
    low, middle, high = (add(builder, mul(builder, real(_EXP2[i + 1]), x), real(_EXP2[i])) for i in (1, 3, 5))
    square = mul(builder, x, x)
    rest = add(builder, mul(builder, add(builder, mul(builder, high, square), middle), square), low)
    result = add(builder, mul(builder, rest, x), real(_EXP2[0]))
    exponent = builder.shl(builder.bitcast(rounded, integer), constant(23, integer))
    return builder.bitcast(builder.add(builder.bitcast(result, integer), exponent), power.type)


def exp_minus(builder: Any, x: Any) -> Any:
    """Return exp(-x) of a float or a vector, for x >= 0, accurate to 2e-7 + 1.2e-7 x (relative), at least 2^-125."""

    def real(value: float) -> Any:
        value = float(np.float32(value))
        return ir.Constant(x.type, [value] * x.type.count if isinstance(x.type, ir.VectorType) else value)

    power = mul(builder, x, real(-np.log2(np.e)))
    return exp2(builder, builder.select(builder.fcmp_ordered("<", power, real(-125.0)), real(-125.0), power))
