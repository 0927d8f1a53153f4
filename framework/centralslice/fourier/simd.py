"""Small vector instructions for numba kernels.

numba's optimiser does not turn "add w · [re, im, weight, weight]" to neighbouring voxels into vector
instructions, so these intrinsics say it in LLVM terms. They work for float32 and float64 arrays.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

CHANNELS = 4
COEFFICIENTS = 10


def _element(array_type: Any) -> ir.Type:
    return ir.FloatType() if array_type.dtype == types.float32 else ir.DoubleType()


def _as_element(builder: Any, value: Any, element: ir.Type) -> Any:
    """``value`` rounded (or widened) to the element type of the arrays."""
    if value.type == element:
        return value
    if isinstance(element, ir.FloatType):
        return builder.fptrunc(value, element)
    return builder.fpext(value, element)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Pointer to flat element ``offset`` of a C-contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def _vector_at(builder: Any, pointer: Any, lanes: int) -> Any:
    vector = ir.VectorType(pointer.type.pointee, lanes)
    return builder.bitcast(pointer, vector.as_pointer())


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = "f32" if isinstance(a.type.element, ir.FloatType) else "f64"
    name = f"llvm.fma.v{a.type.count}{kind}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


@intrinsic  # type: ignore[untyped-decorator]
def window_values(typing: Any, coefficients: Any, fraction: Any, out: Any) -> Any:
    """``out[j] = Σ_d coefficients[d, j] · fraction^d`` for all lanes j (8), Horner's rule.

    ``coefficients`` (COEFFICIENTS, 8) and ``out`` (8,) share one dtype, to which the fraction is rounded.
    """
    signature = types.void(coefficients, fraction, out)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, value, result = arguments
        table_type, _, result_type = signature.args
        index = ir.IntType(64)
        at = _splat(builder, _as_element(builder, value, _element(table_type)), 8)

        def row(degree: int) -> Any:
            pointer = _pointer(context, builder, table_type, table, ir.Constant(index, 8 * degree))
            return builder.load(_vector_at(builder, pointer, 8), align=4)

        total = row(COEFFICIENTS - 1)
        for degree in range(COEFFICIENTS - 2, -1, -1):
            total = _fma(builder, total, at, row(degree))
        target = _pointer(context, builder, result_type, result, ir.Constant(index, 0))
        builder.store(total, _vector_at(builder, target, 8), align=4)
        return context.get_dummy_value()

    return signature, generate


def _groups(width: int) -> list[tuple[int, int]]:
    """Split ``width`` voxels into runs of 4, 2 and 1 (first voxel, voxels): whole vector registers."""
    groups, first = [], 0
    for size in (4, 2, 1):
        while width - first >= size:
            groups.append((first, size))
            first += size
    return groups


@intrinsic  # type: ignore[untyped-decorator]
def add_to_plane(
    typing: Any, voxels: Any, offset: Any, row_stride: Any, window_x: Any, window_y: Any,
    factor: Any, sample: Any, width: Any,
) -> Any:  # fmt: skip
    """Add ``factor · window_y[i] · window_x[j] · sample`` to the width × width voxels of one z plane.

    ``voxels`` is a C-contiguous (…, 4) array, ``offset`` the flat element of the first voxel,
    ``row_stride`` the elements from one y to the next, ``sample`` a tuple of 4 values (rounded to the array's dtype), ``width`` a tuple
    whose length is the kernel's width (known when compiling, so that the loops are unrolled).
    """
    signature = types.void(voxels, offset, row_stride, window_x, window_y, factor, sample, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, stride, x_window, y_window, scale, values, _ = arguments
        array_type, _, _, x_type, y_type, _, _, width_type = signature.args
        count = len(width_type)
        element, index = _element(array_type), ir.IntType(64)
        quad = ir.Constant(ir.VectorType(element, CHANNELS), ir.Undefined)
        scale = _as_element(builder, scale, element)
        for channel in range(CHANNELS):
            value = _as_element(builder, builder.extract_value(values, channel), element)
            quad = builder.insert_element(quad, builder.fmul(value, scale), ir.Constant(ir.IntType(32), channel))

        def scalar(kind: Any, window: Any, number: int) -> Any:
            return builder.load(_pointer(context, builder, kind, window, ir.Constant(index, number)))

        def spread(first: int, voxels_here: int) -> Any:
            """window_x times sample for a run of voxels, as one vector."""
            lanes = CHANNELS * voxels_here
            indices = [lane % CHANNELS for lane in range(lanes)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), indices)
            tiled = builder.shuffle_vector(quad, quad, mask)
            weights = ir.Constant(ir.VectorType(element, voxels_here), ir.Undefined)
            for number in range(voxels_here):
                value = scalar(x_type, x_window, first + number)
                weights = builder.insert_element(weights, value, ir.Constant(ir.IntType(32), number))
            repeat = [lane // CHANNELS for lane in range(lanes)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), repeat)
            return builder.fmul(tiled, builder.shuffle_vector(weights, weights, mask))

        runs = [(first, size, spread(first, size)) for first, size in _groups(count)]
        position = start
        for row in range(count):
            weight = scalar(y_type, y_window, row)
            for first, size, vector in runs:
                at = builder.add(position, ir.Constant(index, CHANNELS * first))
                pointer = _vector_at(builder, _pointer(context, builder, array_type, array, at), CHANNELS * size)
                old = builder.load(pointer, align=4)
                new = _fma(builder, vector, _splat(builder, weight, CHANNELS * size), old)
                builder.store(new, pointer, align=4)
            position = builder.add(position, stride)
        return context.get_dummy_value()

    return signature, generate
