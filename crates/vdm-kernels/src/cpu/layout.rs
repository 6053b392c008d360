//! Where the elements of a matrix lie.

/// A matrix inside a slice: `rows` x `cols`, element (r, c) at `offset + r * row_stride + c * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Index of element (0, 0).
    pub offset: usize,
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between columns, in elements.
    pub col_stride: usize,
}

impl Layout {
    /// Row-major, dense, from the slice's beginning.
    pub fn row_major(rows: usize, cols: usize) -> Self {
        Self { rows, cols, offset: 0, row_stride: cols, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The dense layout of a copy with rows and columns exchanged.
    pub fn transposed_copy(self) -> Self {
        Self::row_major(self.cols, self.rows)
    }

    pub(super) fn fits(&self, len: usize) -> bool {
        self.rows == 0
            || self.cols == 0
            || self.offset + (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < len
    }
}
