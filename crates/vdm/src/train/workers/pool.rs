//! The workers, as the training sees them.

use super::error::{WorkerError, WorkersError};
use super::messages::{Answer, Hello, PartHead, Work, host_tensor, of_part, version};
use super::wire::{self, WireError};
use crate::LossTerms;
use crate::config::Config;
use crate::diffusion::Vocabulary;
use crate::run::Model;
use crate::schedule::ScheduleObjective;
use crate::shape::ImageShape;
use crate::train::Batch;
use crate::train::gradient::{GradientSum, Part, add_up, cut, gradients_of_parts, share_out};
use crate::weights::{Weights, export};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(10);

/// A connected worker.
struct Worker {
    address: String,
    stream: TcpStream,
}

impl Worker {
    fn connect(address: &str, hello: &Hello) -> Result<Self, WorkerError> {
        let failed = |reason: String| WorkerError::Connect { address: address.into(), reason };
        let places = address.to_socket_addrs().map_err(|e| failed(e.to_string()))?;
        let mut reason = "the name has no address".to_string();
        for place in places {
            match TcpStream::connect_timeout(&place, CONNECTING) {
                Ok(stream) => {
                    let prepared = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                    prepared
                        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
                        .map_err(|e| failed(e.to_string()))?;
                    let mut worker = Self { address: address.into(), stream };
                    worker.greet(hello)?;
                    return Ok(worker);
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(failed(reason))
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), WorkerError> {
        let (answer, _) = self.ask(hello, &[])?;
        match answer {
            Answer::Ready(found) if found == hello.version => Ok(()),
            Answer::Ready(found) => {
                Err(WorkerError::Version { address: self.address.clone(), expected: hello.version.clone(), found })
            }
            Answer::Refused(reason) => Err(self.refused(reason)),
            Answer::Done => Err(self.confused("an answer to another question")),
        }
    }

    fn ask<H: Serialize>(&mut self, head: &H, tensors: &[&Weights]) -> Result<(Answer, Weights), WorkerError> {
        let lost = |source| WorkerError::Lost { address: self.address.clone(), source };
        wire::send(&mut self.stream, head, tensors).map_err(lost)?;
        wire::receive(&mut self.stream).map_err(lost)
    }

    fn refused(&self, reason: String) -> WorkerError {
        WorkerError::Refused { address: self.address.clone(), reason }
    }

    fn confused(&self, what: &str) -> WorkerError {
        WorkerError::Lost { address: self.address.clone(), source: WireError::Message(what.into()) }
    }

    /// The gradients and terms of these parts, for a model of these weights.
    fn gradients(
        &mut self,
        weights: &Weights,
        parts: &[Part],
        device: &Device,
    ) -> Result<Vec<(GradientSum, LossTerms)>, WorkerError> {
        let heads = parts.iter().map(|part| PartHead {
            times: part.batch.times.iter().map(|t| t.to_bits()).collect(),
            weights: part.batch.weights.as_ref().map(|weights| weights.iter().map(|w| w.to_bits()).collect()),
            classes: part.batch.conditioning.classes.clone(),
            dropout_seed: part.batch.dropout_seed,
            weight: part.weight.to_bits(),
        });
        let mut tensors = Weights::new();
        for (i, Part { batch, .. }) in parts.iter().enumerate() {
            let mut put = |name: &str, tensor| tensors.insert(of_part(i) + name, tensor);
            put("k", host_tensor(&batch.k));
            put("eps", host_tensor(&batch.noise.eps));
            put("eps_0", host_tensor(&batch.noise.eps_0));
            if let Some(scalar) = &batch.conditioning.scalar {
                put("scalar", host_tensor(scalar));
            }
        }
        let (answer, mut found) = self.ask(&Work { parts: heads.collect() }, &[weights, &tensors])?;
        match answer {
            Answer::Done => {}
            Answer::Refused(reason) => {
                return Err(self.refused(reason));
            }
            Answer::Ready(_) => return Err(self.confused("an answer to another question")),
        }
        let mut done = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let mut term = |name: &str| {
                let tensor = found.remove(&(of_part(i) + name));
                let tensor = tensor.filter(|tensor| tensor.shape == [part.batch.times.len()]);
                tensor.map(|tensor| Tensor::from_data(TensorData::new(tensor.data, tensor.shape), device))
            };
            let terms = (term("prior"), term("reconstruction"), term("diffusion"));
            let (Some(prior), Some(reconstruction), Some(diffusion)) = terms else {
                return Err(self.confused("an answer without the terms of the loss"));
            };
            let prefix = of_part(i) + "gradient.";
            let mut gradients = BTreeMap::new();
            let own: Vec<String> = found.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
            for name in own {
                let tensor = found.remove(&name).expect("its name was listed");
                let name = &name[prefix.len()..];
                if weights.get(name).is_none_or(|weight| weight.data.len() != tensor.data.len()) {
                    return Err(self.confused(&format!("a gradient of {name:?}, which is no such parameter")));
                }
                let flat = [tensor.data.len()];
                gradients.insert(name.to_string(), Tensor::from_data(TensorData::new(tensor.data, flat), device));
            }
            done.push((
                GradientSum::from_parts(gradients, part.weight),
                LossTerms { prior, reconstruction, diffusion },
            ));
        }
        if let Some(name) = found.keys().next() {
            return Err(self.confused(&format!("a tensor {name:?} that nobody asked for")));
        }
        Ok(done)
    }
}

/// The workers of a training, this process being one more.
pub struct Workers {
    workers: Vec<Worker>,
    device: Device,
}

impl Workers {
    /// Connects to the workers at `addresses`, each `host:port`, for a training of this configuration on images of this shape
    /// and vocabulary. `device` is that of this process, without autodiff.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub fn connect(
        addresses: &[String],
        config: &Config,
        shape: ImageShape,
        vocabulary: Vocabulary,
        device: &Device,
    ) -> Result<Self, WorkerError> {
        let hello = Hello {
            version: version(),
            config: config.to_toml().unwrap_or_default(),
            shape: [shape.channels, shape.height, shape.width],
            levels: vocabulary.levels(),
        };
        let workers = addresses.iter().map(|address| Worker::connect(address, &hello)).collect::<Result<_, _>>()?;
        Ok(Self { workers, device: device.clone() })
    }

    /// [`batch_gradients`](crate::train::batch_gradients), bit for bit, with parts of the batch computed by the workers.
    ///
    /// # Errors
    /// See [`WorkersError`].
    ///
    /// # Panics
    /// If the batch is empty.
    pub fn batch_gradients(
        &mut self,
        model: &Model,
        batch: Batch,
        objective: ScheduleObjective,
    ) -> Result<(GradientSum, LossTerms), WorkersError> {
        let sharers = self.workers.len() + 1;
        let shares = share_out(cut(&batch, model.num_params(), 1), sharers);
        let [local, remote @ ..] = shares.as_slice() else { unreachable!("this process has a share") };
        let weights = export(model);
        let (weights, device) = (&weights, &self.device);
        let (local, remote) = std::thread::scope(|scope| {
            let asked = self.workers.iter_mut().zip(remote).filter(|(_, parts)| !parts.is_empty());
            let asked = asked.map(|(worker, parts)| scope.spawn(move || worker.gradients(weights, parts, device)));
            let asked = Vec::from_iter(asked);
            let local = gradients_of_parts(model, local.to_vec(), objective);
            (local, Vec::from_iter(asked.into_iter().map(|asked| asked.join())))
        });
        let mut done = local?;
        for found in remote {
            done.extend(found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(add_up(done))
    }
}
