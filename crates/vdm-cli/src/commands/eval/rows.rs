//! The file of `--per-image`: a row for each image.

use anyhow::Result;
use std::path::Path;
use vdm::data::ImageDataset;
use vdm::files::target;
use vdm::likelihood::Evaluation;

/// Says why the file cannot be written, as far as that can be known before there are rows.
pub fn check(file: &Path) -> Result<()> {
    if is_parquet(file) && cfg!(not(feature = "parquet")) {
        anyhow::bail!(
            "this program was built without Parquet; name a .csv file, or build it with `--features parquet`"
        );
    }
    target(file)?;
    Ok(())
}

/// The file's content, in the format that its ending names.
pub fn bytes(file: &Path, evaluation: &Evaluation, data: &ImageDataset) -> Result<Vec<u8>> {
    #[cfg(feature = "parquet")]
    if is_parquet(file) {
        return super::parquet_rows::bytes(evaluation, data);
    }
    debug_assert!(!is_parquet(file), "`check` refuses it");
    Ok(csv(evaluation, data).into_bytes())
}

fn is_parquet(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

fn csv(evaluation: &Evaluation, data: &ImageDataset) -> String {
    let mut rows = String::from("index,label,bpd,bpd_stderr,prior,reconstruction,diffusion\n");
    for (i, of) in evaluation.of_images.iter().enumerate() {
        let label = data.label(i).map_or(String::new(), |label| label.to_string());
        let error = of.bpd_stderr.map_or(String::new(), |error| error.to_string());
        rows += &format!("{i},{label},{},{error},{},{},{}\n", of.bpd, of.prior, of.reconstruction, of.diffusion);
    }
    rows
}
