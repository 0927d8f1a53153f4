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


def _to_integers(builder: Any, value: Any, target: Any) -> Any:
    """Each element as the nearest whole number, ties to even."""
    kind = "f32" if isinstance(value.type.element, ir.FloatType) else "f64"
    name = f"llvm.lrint.v{value.type.count}i{target.element.width}.v{value.type.count}{kind}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(target, [value.type]), name)
    return builder.call(function, [value])


@intrinsic
def window_values(typing: Any, coefficients: Any, x: Any, y: Any, z: Any, out: Any, width: Any) -> Any:
    """Window values of all taps of three axes at once: ``out[axis · lanes + j] = Σ_d c[d, j] f_axis^d``.

    ``coefficients`` is (COEFFICIENTS, 4 · lanes), the taps of an axis repeated four times, with
    ``lanes = lanes_of(len(width))``; ``out`` is (4 · lanes,). Both have one dtype, to which x, y, z are rounded.
    """
    signature = types.void(coefficients, x, y, z, out, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, *fractions, result, _ = arguments
        table_type, result_type, width_type = signature.args[0], signature.args[4], signature.args[5]
        index, element, lanes = ir.IntType(64), _element(table_type), lanes_of(len(width_type))
        total_lanes = 4 * lanes
        at = ir.Constant(ir.VectorType(element, total_lanes), [0.0] * total_lanes)
        for axis, fraction in enumerate(fractions):
            value = _as_element(builder, fraction, element)
            for lane in range(axis * lanes, (axis + 1) * lanes):
                at = builder.insert_element(at, value, ir.Constant(ir.IntType(32), lane))

        def row(degree: int) -> Any:
            pointer = _pointer(context, builder, table_type, table, ir.Constant(index, total_lanes * degree))
            return builder.load(_vector_at(builder, pointer, total_lanes), align=4)

        total = row(COEFFICIENTS - 1)
        for degree in range(COEFFICIENTS - 2, -1, -1):
            total = _fma(builder, total, at, row(degree))
        target = _pointer(context, builder, result_type, result, ir.Constant(index, 0))
        builder.store(total, _vector_at(builder, target, total_lanes), align=4)
        return context.get_dummy_value()

    return signature, generate


def lanes_of(width: int) -> int:
    """Vector lanes that the taps of one axis take."""
    return 4 if width <= 4 else 8


def _groups(width: int) -> list[tuple[int, int]]:
    """Split ``width`` voxels into runs of 4, 2 and 1 (first voxel, voxels): whole vector registers."""
    groups, first = [], 0
    for size in (4, 2, 1):
        while width - first >= size:
            groups.append((first, size))
            first += size
    return groups


@intrinsic
def add_to_plane(  # noqa: PLR0913 - one instruction, as it were
    typing: Any, voxels: Any, offset: Any, row_stride: Any, windows: Any, tap: Any, sample: Any, width: Any
) -> Any:
    """Add ``wz[tap] · wy[i] · wx[j] · sample`` to the width × width voxels of one z plane.

    Into integer voxels each contribution is added as the nearest whole number: such sums are exact, hence
    the same in any order.

    ``windows`` holds wx, wy and wz as :func:`window_values` leaves them.

    ``voxels`` is a C-contiguous (…, 4) array, ``offset`` the flat element of the first voxel,
    ``row_stride`` the elements from one y to the next, ``sample`` a tuple of 4 values (rounded to the array's
    dtype), ``width`` a tuple whose length is the kernel's width (known when compiling: loops are unrolled).
    """
    signature = types.void(voxels, offset, row_stride, windows, tap, sample, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, stride, windows, tap, values, _ = arguments
        array_type, _, _, windows_type, _, _, width_type = signature.args
        count = len(width_type)
        element, index, lanes = _element(windows_type), ir.IntType(64), lanes_of(len(width_type))
        quad = ir.Constant(ir.VectorType(element, CHANNELS), ir.Undefined)
        at_tap = builder.add(tap, ir.Constant(index, 2 * lanes))
        scale = builder.load(_pointer(context, builder, windows_type, windows, at_tap))
        for channel in range(CHANNELS):
            value = _as_element(builder, builder.extract_value(values, channel), element)
            quad = builder.insert_element(
                quad, builder.fmul(value, scale), ir.Constant(ir.IntType(32), channel)
            )

        def scalar(number: int) -> Any:
            return builder.load(_pointer(context, builder, windows_type, windows, ir.Constant(index, number)))

        def spread(first: int, voxels_here: int) -> Any:
            """window_x times sample for a run of voxels, as one vector."""
            lanes = CHANNELS * voxels_here
            indices = [lane % CHANNELS for lane in range(lanes)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), indices)
            tiled = builder.shuffle_vector(quad, quad, mask)
            weights = ir.Constant(ir.VectorType(element, voxels_here), ir.Undefined)
            for number in range(voxels_here):
                value = scalar(first + number)
                weights = builder.insert_element(weights, value, ir.Constant(ir.IntType(32), number))
            repeat = [lane // CHANNELS for lane in range(lanes)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), repeat)
            return builder.fmul(tiled, builder.shuffle_vector(weights, weights, mask))

        runs = [(first, size, spread(first, size)) for first, size in _groups(count)]
        position = start
        for row in range(count):
            weight = scalar(lanes + row)
            for first, size, vector in runs:
                at = builder.add(position, ir.Constant(index, CHANNELS * first))
                pointer = _vector_at(
                    builder, _pointer(context, builder, array_type, array, at), CHANNELS * size
                )
                old = builder.load(pointer, align=4)
                spread_weight = _splat(builder, weight, CHANNELS * size)
                if isinstance(array_type.dtype, types.Integer):
                    part = _to_integers(builder, builder.fmul(vector, spread_weight), old.type)
                    new = builder.add(old, part)
                else:
                    new = _fma(builder, vector, spread_weight, old)
                builder.store(new, pointer, align=4)
            position = builder.add(position, stride)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def weighted_block(
    typing: Any, voxels: Any, offset: Any, row_stride: Any, plane_stride: Any, windows: Any, width: Any
) -> Any:
    """``Σ wz[k] wy[j] wx[i] · voxel[k, j, i]`` over width³ complex voxels: a tuple (real, imaginary).

    ``voxels`` is a C-contiguous real array of interleaved [re, im], ``offset`` the flat element of the first
    voxel, the strides count elements; ``windows`` holds wx, wy and wz as :func:`window_values` leaves them;
    ``width`` is a tuple whose length is the kernel's width.
    """
    signature = types.UniTuple(voxels.dtype, 2)(voxels, offset, row_stride, plane_stride, windows, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, row_step, plane_step, windows, _ = arguments
        array_type, _, _, _, windows_type, width_type = signature.args
        count = len(width_type)
        element, index, lanes = _element(array_type), ir.IntType(64), lanes_of(count)
        runs = _groups(count)

        def window(number: int) -> Any:
            return builder.load(_pointer(context, builder, windows_type, windows, ir.Constant(index, number)))

        across = [window(lanes + row) for row in range(count)]
        # one sum a plane and run: additions that need not wait for each other
        totals: list[list[Any]] = []
        plane = start
        for tap in range(count):
            along = window(2 * lanes + tap)
            sums: list[Any] = [None] * len(runs)
            position = plane
            for row in range(count):
                weight = builder.fmul(along, across[row])
                for number, (first, size) in enumerate(runs):
                    at = builder.add(position, ir.Constant(index, 2 * first))
                    pointer = _vector_at(builder, _pointer(context, builder, array_type, array, at), 2 * size)
                    value, spread = builder.load(pointer, align=4), _splat(builder, weight, 2 * size)
                    old = sums[number]
                    sums[number] = (
                        builder.fmul(value, spread) if old is None else _fma(builder, value, spread, old)
                    )
                position = builder.add(position, row_step)
            totals.append(sums)
            plane = builder.add(plane, plane_step)
        parts: list[Any] = [ir.Constant(element, 0.0), ir.Constant(element, 0.0)]
        for number, (first, size) in enumerate(runs):
            total = totals[0][number]
            for sums in totals[1:]:
                total = builder.fadd(total, sums[number])
            for lane in range(2 * size):
                value = builder.extract_element(total, ir.Constant(ir.IntType(32), lane))
                value = builder.fmul(value, window(first + lane // 2))
                parts[lane % 2] = builder.fadd(parts[lane % 2], value)
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, generate
