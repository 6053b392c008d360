//! Pictures: grids of images as PNG files, figures of a run as SVG documents.

mod chart;
pub mod figures;
pub mod grid;

pub use chart::PlotError;
