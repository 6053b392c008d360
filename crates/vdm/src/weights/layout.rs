//! Parameters in the layout of PyTorch's `torch.nn`.

use super::{HostTensor, Weights};

/// The parameters as `torch.nn` names and shapes them: the matrices of dense layers transposed to `[out, in]`, `gamma` and
/// `beta` of normalisations as `weight` and `bias`. Convolutions and embeddings are the same there.
pub fn to_pytorch(weights: &Weights) -> Weights {
    weights.iter().map(|(name, tensor)| renamed(name, tensor)).collect()
}

fn renamed(name: &str, tensor: &HostTensor) -> (String, HostTensor) {
    let (path, last) = name.rsplit_once('.').unwrap_or(("", name));
    let last = match last {
        "gamma" => "weight",
        "beta" => "bias",
        last => last,
    };
    let name = if path.is_empty() { last.to_string() } else { format!("{path}.{last}") };
    // The vectors of the classes are the rows of an embedding.
    let is_embedding = path == "class" || path.ends_with(".class");
    match tensor.shape[..] {
        [rows, columns] if last == "weight" && !is_embedding => {
            let at = |i: usize| tensor.data[i % rows * columns + i / rows];
            let data = (0..rows * columns).map(at).collect();
            (name, HostTensor { shape: vec![columns, rows], data })
        }
        _ => (name, tensor.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_matrices_are_transposed_and_norms_renamed() {
        let matrix = HostTensor { shape: vec![2, 3], data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let vector = HostTensor { shape: vec![2], data: vec![7.0, 8.0] };
        let weights = Weights::from([
            ("dense0.weight".to_string(), matrix.clone()),
            ("class.weight".into(), matrix.clone()),
            ("down.0.norm1.gamma".into(), vector.clone()),
            ("down.0.norm1.beta".into(), vector.clone()),
        ]);
        let found = to_pytorch(&weights);
        let transposed = HostTensor { shape: vec![3, 2], data: vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0] };
        assert_eq!((&found["dense0.weight"], &found["class.weight"]), (&transposed, &matrix));
        assert_eq!((&found["down.0.norm1.weight"], &found["down.0.norm1.bias"]), (&vector, &vector));
    }
}
