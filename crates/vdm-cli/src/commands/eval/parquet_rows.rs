//! The rows of `--per-image` as Parquet: whole numbers of 64 bits and numbers in double precision; a label or an error that is
//! not known is null.

use anyhow::Result;
use parquet::data_type::{DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use std::sync::Arc;
use vdm::data::ImageDataset;
use vdm::likelihood::Evaluation;

const SCHEMA: &str = "message images {
    required int64 index;
    optional int64 label;
    required double bpd;
    optional double bpd_stderr;
    required double prior;
    required double reconstruction;
    required double diffusion;
}";

pub fn bytes(evaluation: &Evaluation, data: &ImageDataset) -> Result<Vec<u8>> {
    let images = &evaluation.of_images;
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::default()))?;
    let mut rows = file.next_row_group()?;
    required::<Int64Type>(&mut rows, Vec::from_iter(0..images.len() as i64))?;
    optional::<Int64Type>(&mut rows, (0..images.len()).map(|i| data.label(i).map(i64::from)))?;
    required::<DoubleType>(&mut rows, images.iter().map(|of| of.bpd).collect())?;
    optional::<DoubleType>(&mut rows, images.iter().map(|of| of.bpd_stderr))?;
    required::<DoubleType>(&mut rows, images.iter().map(|of| of.prior).collect())?;
    required::<DoubleType>(&mut rows, images.iter().map(|of| of.reconstruction).collect())?;
    required::<DoubleType>(&mut rows, images.iter().map(|of| of.diffusion).collect())?;
    rows.close()?;
    Ok(file.into_inner()?)
}

/// The next column, of numbers that are all there.
fn required<T: DataType>(rows: &mut SerializedRowGroupWriter<'_, Vec<u8>>, values: Vec<T::T>) -> Result<()> {
    column::<T>(rows, values, None)
}

/// The next column, of numbers that may be absent.
fn optional<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<()> {
    let values = Vec::from_iter(values);
    let there = Vec::from_iter(values.iter().map(|value| i16::from(value.is_some())));
    column::<T>(rows, values.into_iter().flatten().collect(), Some(&there))
}

fn column<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: Vec<T::T>,
    there: Option<&[i16]>,
) -> Result<()> {
    let mut column = rows.next_column()?.expect("as many columns as the schema has");
    column.typed::<T>().write_batch(&values, there, None)?;
    column.close()?;
    Ok(())
}
