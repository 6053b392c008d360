//! A golden file: its metadata, its tensors, and the comparisons made with them.

use burn::tensor::Device;
use safetensors::{Dtype, SafeTensors};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use vdm::weights::{HostTensor, NameMap, Weights};

/// Values: norm of the difference over norm of the reference. The reference's own float32 noise against float64, with
/// a margin.
pub const VALUES: f64 = 2e-4;
/// Gradients: this share of the parameter's own gradient ...
pub const GRADIENTS: f64 = 1e-3;
/// ... or of a schedule parameter's, which is a sum over everything ...
pub const SCHEDULE_GRADIENTS: f64 = 5e-3;
/// ... plus this share of the norm of all gradients together: some gradients are zero by construction (biases before
/// a one-channel group norm, the attention key's bias), and the reference's are noise.
pub const ALL_GRADIENTS: f64 = 2e-5;

pub struct GoldenFile {
    pub metadata: HashMap<String, String>,
    pub tensors: BTreeMap<String, HostTensor>,
    failures: RefCell<Vec<String>>,
    count: Cell<usize>,
    worst: RefCell<(f64, String)>,
}

impl GoldenFile {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let data = match view.dtype() {
                Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::U8 => view.data().iter().map(|&b| f32::from(b)).collect(),
                other => panic!("{}: {name} has type {other:?}", path.display()),
            };
            tensors.insert(name, HostTensor { shape: view.shape().to_vec(), data });
        }
        Self { metadata, tensors, failures: RefCell::default(), count: Cell::default(), worst: RefCell::default() }
    }

    /// The metadata under `key`, which is JSON.
    pub fn meta<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        self.meta_or(key).unwrap_or_else(|| panic!("metadata lack `{key}`: {:?}", self.metadata))
    }

    pub fn meta_or<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        let text = self.metadata.get(key)?;
        Some(serde_json::from_str(text).unwrap_or_else(|e| panic!("metadata `{key}` = {text}: {e}")))
    }

    pub fn get(&self, name: &str) -> &HostTensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor `{name}`"))
    }

    /// The tensors whose names begin with `prefix`, which is taken off.
    pub fn under(&self, prefix: &str) -> BTreeMap<String, HostTensor> {
        let strip = |(name, t): (&String, &HostTensor)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// Compares values: |found - want| <= VALUES |want|.
    pub fn values(&self, what: &str, found: &[f32], want: &[f32]) {
        self.within(what, found, want, VALUES * norm(want));
    }

    /// Compares every parameter's gradient; `tolerance` says which share of its own norm a gradient may be off.
    pub fn gradients(
        &self,
        found: &BTreeMap<String, HostTensor>,
        want: &BTreeMap<String, HostTensor>,
        tolerance: impl Fn(&str) -> f64,
    ) {
        let all = want.values().map(|t| norm(&t.data).powi(2)).sum::<f64>().sqrt();
        for name in found.keys().filter(|name| !want.contains_key(*name)) {
            self.fail(format!("gradient of `{name}`, which the reference does not have"));
        }
        for (name, want) in want {
            match found.get(name) {
                None => self.fail(format!("no gradient of `{name}`")),
                Some(found) if found.shape != want.shape => {
                    self.fail(format!("gradient of `{name}`: shape {:?}, not {:?}", found.shape, want.shape));
                }
                Some(found) => {
                    let bound = tolerance(name) * norm(&want.data) + ALL_GRADIENTS * all;
                    self.within(&format!("gradient of {name}"), &found.data, &want.data, bound);
                }
            }
        }
    }

    pub fn within(&self, what: &str, found: &[f32], want: &[f32], bound: f64) {
        self.count.set(self.count.get() + 1);
        if found.len() != want.len() {
            return self.fail(format!("{what}: {} numbers, not {}", found.len(), want.len()));
        }
        let difference: Vec<f32> = found.iter().zip(want).map(|(a, b)| a - b).collect();
        let distance = norm(&difference);
        let share = if bound > 0.0 { distance / bound } else { 0.0 };
        if share > self.worst.borrow().0 {
            *self.worst.borrow_mut() = (share, what.to_string());
        }
        if distance > bound || distance.is_nan() {
            self.fail(format!("{what}: off by {distance:.3e}, allowed {bound:.3e}, reference norm {:.3e}", norm(want)));
        }
    }

    pub fn fail(&self, message: String) {
        self.failures.borrow_mut().push(message);
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.borrow().clone()
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// The comparison that came nearest to its tolerance, and how near.
    pub fn worst(&self) -> String {
        let (share, what) = &*self.worst.borrow();
        format!("{share:.2} ({what})")
    }
}

/// Parameters under the names that `vdm import --map NAME` gives them.
pub fn by_map(name: &str, weights: &Weights) -> Weights {
    NameMap::named(name).unwrap().apply(weights).unwrap()
}

pub fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// `t` with its axes in the order `axes`.
pub fn permute(t: &HostTensor, axes: &[usize]) -> HostTensor {
    let shape: Vec<usize> = axes.iter().map(|&a| t.shape[a]).collect();
    let mut strides = vec![1; t.shape.len()];
    for i in (0..t.shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * t.shape[i + 1];
    }
    let data = (0..t.data.len())
        .map(|mut flat| {
            let mut source = 0;
            for (i, &axis) in axes.iter().enumerate().rev() {
                source += flat % shape[i] * strides[axis];
                flat /= shape[i];
            }
            t.data[source]
        })
        .collect();
    HostTensor { shape, data }
}

/// A tensor of rank `D` on `device`.
pub fn tensor<const D: usize>(t: &HostTensor, device: &Device) -> burn::tensor::Tensor<D> {
    assert_eq!(t.shape.len(), D);
    burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(t.data.clone(), t.shape.clone()), device)
}

pub fn floats<const D: usize>(t: burn::tensor::Tensor<D>) -> Vec<f32> {
    t.into_data().iter::<f32>().collect()
}
