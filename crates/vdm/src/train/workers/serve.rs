//! A worker.

use super::messages::{Answer, Hello, PartHead, Work, host_tensor, model_of, of_part, version};
use super::wire::{self, WireError};
use crate::Noise;
use crate::config::{Config, resolve_run};
use crate::diffusion::Vocabulary;
use crate::nn::{Conditioning, ScoreNetwork};
use crate::run::Model;
use crate::shape::ImageShape;
use crate::train::Batch;
use crate::train::gradient::{Part, gradients_of_parts};
use crate::weights::{HostTensor, Weights, import};
use burn::tensor::{Device, Tensor, TensorData};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Most trainings that are served at a time.
const MAX_TRAININGS: usize = 8;
/// Most connections, with those that have not said yet what for.
const MAX_CONNECTIONS: usize = 8 * MAX_TRAININGS;
/// How long whoever connects may take to say what for, and to take an answer.
const GREETING: Duration = Duration::from_secs(30);
/// How long a training may take to read the gradients of a step.
const TAKING: Duration = Duration::from_secs(600);
/// How long a training may leave a worker without work: a machine that lost its power never says goodbye.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Most numbers of the images of a part.
const MAX_NUMBERS: usize = 1 << 26;

/// Computes gradients for whoever connects to `listener`, until the process ends; `tell` is told what happens.
///
/// # Errors
/// Whatever the system says of the listener; what is wrong with a connection ends only that.
pub fn serve(listener: &TcpListener, device: &Device, tell: &(dyn Fn(String) + Sync)) -> io::Result<()> {
    let (connections, trainings) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        loop {
            let (stream, from) = listener.accept()?;
            let place = Place::take(&connections);
            if place.number >= MAX_CONNECTIONS {
                tell(format!("{from} was turned away: {MAX_CONNECTIONS} connections are open"));
                continue;
            }
            let trainings = &trainings;
            scope.spawn(move || {
                tell(format!("{from} has connected"));
                match of_stream(stream, device, trainings) {
                    Ok(steps) => tell(format!("{from} is gone after {steps} steps")),
                    Err(error) => tell(format!("{from}: {error}")),
                }
                drop(place);
            });
        }
    })
}

/// One of the connections that are open, or of the trainings that are served.
struct Place<'a> {
    open: &'a AtomicUsize,
    /// How many were open before.
    number: usize,
}

impl<'a> Place<'a> {
    fn take(open: &'a AtomicUsize) -> Self {
        Self { open, number: open.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// [`converse`] on a connection of the network, which does not wait for ever; one of the `trainings`, if there is room.
fn of_stream(mut stream: TcpStream, device: &Device, trainings: &AtomicUsize) -> Result<u64, WireError> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GREETING))?;
    stream.set_write_timeout(Some(GREETING))?;
    let (hello, _) = wire::receive::<Hello>(&mut stream)?;
    let place = Place::take(trainings);
    let training = answer(&mut stream, &hello, device, place.number < MAX_TRAININGS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(TAKING))?;
    work(stream, training)
}

/// A worker's side of one training, to its end; the steps that it took.
///
/// # Errors
/// [`WireError`] if the connection breaks, or what comes is no message, or of a training that cannot be.
pub fn converse(mut stream: impl Read + Write, device: &Device) -> Result<u64, WireError> {
    let (hello, _) = wire::receive::<Hello>(&mut stream)?;
    let training = answer(&mut stream, &hello, device, true)?;
    work(stream, training)
}

/// The training that the other side asks for, which is told whether it can be; without `room` it cannot.
fn answer(stream: &mut impl Write, hello: &Hello, device: &Device, room: bool) -> Result<Training, WireError> {
    let training = match room {
        true => Training::new(hello, device),
        false => Err(format!("it serves {MAX_TRAININGS} trainings already")),
    };
    match training {
        Ok(training) => {
            wire::send(stream, &Answer::Ready(version()), &[])?;
            Ok(training)
        }
        Err(reason) => {
            wire::send(stream, &Answer::Refused(reason.clone()), &[])?;
            Err(WireError::Message(reason))
        }
    }
}

/// Step after step of a training; their number.
fn work(mut stream: impl Read + Write, mut training: Training) -> Result<u64, WireError> {
    let mut steps = 0;
    loop {
        let (work, tensors) = match wire::receive::<Work>(&mut stream) {
            Ok(message) => message,
            // Between two steps, a training may end.
            Err(WireError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(steps),
            Err(error) => return Err(error),
        };
        match training.step(&work, tensors) {
            Ok(gradients) => wire::send(&mut stream, &Answer::Done, &[&gradients])?,
            Err(reason) => wire::send(&mut stream, &Answer::Refused(reason), &[])?,
        }
        steps += 1;
    }
}

/// What a worker knows of a training.
struct Training {
    config: Config,
    shape: ImageShape,
    vocabulary: Vocabulary,
    device: Device,
    /// Of the step before: making one anew would draw initial weights in every step.
    model: Option<Model>,
}

impl Training {
    fn new(hello: &Hello, device: &Device) -> Result<Self, String> {
        if hello.version != version() {
            return Err(format!("this worker is vdm {}, the training {:?}", version(), hello.version));
        }
        let config = resolve_run("config.toml", &hello.config).map_err(|e| e.to_string())?;
        let [channels, height, width] = hello.shape;
        let shape = ImageShape { channels, height, width };
        if !shape.is_within_limits() {
            return Err(format!("images of {shape}"));
        }
        config.validate_shape(shape).map_err(|e| e.to_string())?;
        let precision = config.train.precision;
        if !precision.is_known_to(device) {
            return Err(format!("train.precision: the worker's device has no {precision}"));
        }
        let vocabulary = Vocabulary::new(hello.levels).ok_or_else(|| format!("{} levels", hello.levels))?;
        Ok(Self { config, shape, vocabulary, device: device.clone(), model: None })
    }

    /// The gradients and terms of the parts.
    fn step(&mut self, work: &Work, mut tensors: Weights) -> Result<Weights, String> {
        let mut parts = Vec::new();
        for (i, head) in work.parts.iter().enumerate() {
            parts.push(self.part(i, head, &mut tensors)?);
        }
        // What is left are the weights. A configuration may ask for any network: memory is taken only for one whose weights came.
        let found: u128 = tensors.values().map(|tensor| tensor.data.len() as u128).sum();
        let expected = self.config.parameters(self.shape.channels);
        if found != expected {
            return Err(format!("{found} weights, the model has {expected}"));
        }
        let before = self.model.take();
        let before = before.unwrap_or_else(|| model_of(&self.config, self.shape, self.vocabulary, &self.device));
        let model = self.model.insert(import(before, &tensors).map_err(|e| e.to_string())?);
        let classes = model.network.classes();
        for part in &parts {
            part.batch.conditioning.check(classes, part.batch.times.len()).map_err(|e| e.to_string())?;
        }
        let done = gradients_of_parts(model, parts, self.config.schedule.objective).map_err(|e| e.to_string())?;
        let mut answer = Weights::new();
        for (i, (sum, terms)) in done.into_iter().enumerate() {
            let prefix = of_part(i);
            for (name, term) in
                [("prior", terms.prior), ("reconstruction", terms.reconstruction), ("diffusion", terms.diffusion)]
            {
                answer.insert(prefix.clone() + name, host_tensor(&term));
            }
            for (name, gradient) in sum.into_gradients() {
                answer.insert(format!("{prefix}gradient.{name}"), host_tensor(&gradient));
            }
        }
        Ok(answer)
    }

    /// Part `i`, its tensors taken out of `tensors`.
    fn part(&self, i: usize, head: &PartHead, tensors: &mut Weights) -> Result<Part, String> {
        let images = head.times.len();
        if images == 0 || images.saturating_mul(self.shape.dims()) > MAX_NUMBERS {
            return Err(format!("a part of {images} images"));
        }
        let mut take = |name: &str, shape: &[usize]| -> Result<Option<HostTensor>, String> {
            match tensors.remove(&(of_part(i) + name)) {
                Some(tensor) if tensor.shape != shape => {
                    Err(format!("`{name}` has the shape {:?}, expected {shape:?}", tensor.shape))
                }
                found => Ok(found),
            }
        };
        let shape = self.shape.batch(images);
        let mut images_of = |name: &str| {
            let tensor = take(name, &shape)?.ok_or_else(|| format!("no `{name}` for part {i}"))?;
            Ok::<_, String>(tensor.data)
        };
        let (k, eps, eps_0) = (images_of("k")?, images_of("eps")?, images_of("eps_0")?);
        let levels = self.vocabulary.levels() as f32;
        if k.iter().any(|&k| k.fract() != 0.0 || !(0.0..levels).contains(&k)) {
            return Err(format!("pixels that are no whole numbers below {levels}"));
        }
        let scalar = take("scalar", &[images])?;
        let times: Vec<f64> = head.times.iter().map(|&bits| f64::from_bits(bits)).collect();
        if times.iter().any(|t| !(0.0..1.0).contains(t)) {
            return Err("a time outside [0, 1)".into());
        }
        let weights: Option<Vec<f64>> =
            head.weights.as_ref().map(|weights| weights.iter().map(|&bits| f64::from_bits(bits)).collect());
        if weights.as_ref().is_some_and(|weights| weights.len() != images || weights.iter().any(|w| !w.is_finite())) {
            return Err("weights that are not one finite number for each image".into());
        }
        let weight = f64::from_bits(head.weight);
        if !weight.is_finite() {
            return Err(format!("a part that counts {weight}"));
        }
        let images_tensor =
            |data: Vec<f32>| Tensor::<4>::from_data(TensorData::new(data, shape.to_vec()), &self.device);
        let scalar = scalar.map(|scalar| Tensor::from_data(scalar.data.as_slice(), &self.device));
        let conditioning = Conditioning { scalar, classes: head.classes.clone(), ..Default::default() };
        let noise = Noise { eps: images_tensor(eps), eps_0: images_tensor(eps_0) };
        let batch = Batch { k: images_tensor(k), times, weights, noise, conditioning, dropout_seed: head.dropout_seed };
        Ok(Part { batch, weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;
    use crate::train::workers::{WorkerError, Workers, WorkersError};
    use crate::train::{GradientSum, batch_gradients};
    use crate::weights::export;
    use std::net::SocketAddr;
    use vdm_kernels::rng::Philox;

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 8, width: 8 };

    fn config(more: &[&str]) -> Config {
        let base = ["model.n_embd=16", "model.n_layer=1", "model.dropout=0.1", "model.classes=3"];
        resolve("digits", None, &[&base[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()).unwrap()
    }

    fn levels() -> Vocabulary {
        Vocabulary::new(17).unwrap()
    }

    fn batch(images: usize) -> Batch {
        let mut k = vec![0f32; images * SHAPE.dims()];
        Philox::new(2, 0).uniform(0, &mut k);
        k.iter_mut().for_each(|k| *k = (*k * 17.0).floor());
        let k = Tensor::from_data(TensorData::new(k, SHAPE.batch(images).to_vec()), &Device::flex());
        let classes = Conditioning::of_classes((0..images).map(|i| (i % 4 < 3).then_some(i as u32 % 4)));
        let weights = Some((0..images).map(|i| 0.5 + i as f64 / 3.0).collect());
        Batch { weights, ..Batch::draw(k, 5, classes) }
    }

    /// A worker that serves until the test ends.
    fn worker() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, &Device::flex(), &|_| ()));
        address
    }

    fn bits(sum: &GradientSum) -> Vec<(String, Vec<u64>)> {
        let bits = |values: Vec<f64>| values.iter().map(|x| x.to_bits()).collect();
        sum.mean().into_iter().map(|(name, values)| (name, bits(values))).collect()
    }

    #[test]
    fn workers_give_the_gradient_of_the_whole_batch_bit_for_bit() {
        let device = Device::flex();
        for more in [&[][..], &["schedule.kind=monotonic", "schedule.hidden=[4]", "schedule.objective=variance"]] {
            let config = config(more);
            let model = model_of(&config, SHAPE, levels(), &device);
            let objective = config.schedule.objective;
            let (alone, terms) = batch_gradients(&model, batch(70), objective).unwrap();
            for n in 1..4 {
                let addresses = Vec::from_iter((0..n).map(|_| worker().to_string()));
                let mut workers = Workers::connect(&addresses, &config, SHAPE, levels(), &device).unwrap();
                for _ in 0..2 {
                    let (found, of_images) = workers.batch_gradients(&model, batch(70), objective).unwrap();
                    assert_eq!(bits(&found), bits(&alone), "{n} workers");
                    assert_eq!(host_tensor(&of_images.total()), host_tensor(&terms.total()));
                }
            }
        }
    }

    #[test]
    fn a_lost_worker_is_named() {
        let (device, config) = (Device::flex(), config(&[]));
        let model = model_of(&config, SHAPE, levels(), &device);
        // One that answers once and goes.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            wire::receive::<Hello>(&mut stream).unwrap();
            wire::send(&mut stream, &Answer::Ready(version()), &[]).unwrap();
        });
        let addresses = [address.clone()];
        let mut workers = Workers::connect(&addresses, &config, SHAPE, levels(), &device).unwrap();
        let error = workers.batch_gradients(&model, batch(70), config.schedule.objective).unwrap_err();
        assert!(
            matches!(&error, WorkersError::Worker(WorkerError::Lost { address: at, .. }) if *at == address),
            "{error}"
        );
        // And nobody at all.
        let error = Workers::connect(&addresses, &config, SHAPE, levels(), &device).err().unwrap();
        assert!(error.to_string().contains("vdm serve"), "{error}");
    }

    /// It was told that the connection broke.
    #[test]
    fn a_training_too_many_is_told_so() {
        let (device, config, address) = (Device::flex(), config(&[]), worker());
        let connect = || Workers::connect(&[address.to_string()], &config, SHAPE, levels(), &device);
        let served = Vec::from_iter((0..MAX_TRAININGS).map(|_| connect().unwrap()));
        let error = connect().err().unwrap().to_string();
        assert!(error.contains("8 trainings already"), "{error}");
        drop(served);
        // Their places are free again, once the worker has seen that they are gone.
        let begun = std::time::Instant::now();
        while connect().is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no place is free");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_worker_refuses_what_cannot_be() {
        let device = Device::flex();
        let text = config(&[]).to_toml().unwrap();
        let hello = |config: &str, shape, levels| Hello { version: version(), config: config.into(), shape, levels };
        let refused = |hello: &Hello| Training::new(hello, &device).err().unwrap();
        assert!(refused(&hello("model = 3", [1, 8, 8], 17)).contains("model"));
        assert!(refused(&hello(&text, [1, 8, usize::MAX], 17)).contains("images of"));
        assert!(refused(&hello(&text, [1, 8, 8], 1)).contains("1 levels"));
        let other = Hello { version: "0.0.0".into(), ..hello(&text, [1, 8, 8], 17) };
        assert!(refused(&other).contains("0.0.0"));

        let mut training = Training::new(&hello(&text, [1, 8, 8], 17), &device).unwrap();
        let model = model_of(&training.config, SHAPE, levels(), &device);
        let good = || {
            let part = batch(2);
            let mut tensors = export(&model);
            for (name, tensor) in [("0.k", &part.k), ("0.eps", &part.noise.eps), ("0.eps_0", &part.noise.eps_0)] {
                tensors.insert(name.into(), host_tensor(tensor));
            }
            let head = PartHead {
                times: part.times.iter().map(|t| t.to_bits()).collect(),
                weights: None,
                classes: Some(vec![Some(0), None]),
                dropout_seed: 1,
                weight: 1f64.to_bits(),
            };
            (Work { parts: vec![head] }, tensors)
        };
        let (work, tensors) = good();
        assert!(training.step(&work, tensors).is_ok());
        type Damage = fn(&mut Work, &mut Weights);
        let cases: [(Damage, &str); 12] = [
            (|w, _| w.parts[0].times.clear(), "0 images"),
            (|w, _| w.parts[0].times[0] = 1f64.to_bits(), "outside [0, 1)"),
            (|w, _| w.parts[0].times[0] = f64::NAN.to_bits(), "outside [0, 1)"),
            (|w, _| w.parts[0].times.push(0), "`k` has the shape"),
            (|w, _| w.parts[0].weights = Some(vec![0]), "one finite number"),
            (|w, _| w.parts[0].weight = f64::INFINITY.to_bits(), "counts inf"),
            (|w, _| w.parts[0].classes = Some(vec![Some(3), None]), "class 3"),
            (|w, _| w.parts[0].classes = Some(vec![None]), "1 for 2 images"),
            (|_, t| t.get_mut("0.k").unwrap().data[3] = 17.0, "whole numbers below 17"),
            (|_, t| t.get_mut("0.k").unwrap().data[3] = f32::NAN, "whole numbers below 17"),
            (|_, t| drop(t.remove("0.eps")), "no `eps`"),
            (|_, t| drop(t.insert("x".into(), HostTensor { shape: vec![1], data: vec![0.0] })), "weights"),
        ];
        for (damage, words) in cases {
            let (mut work, mut tensors) = good();
            damage(&mut work, &mut tensors);
            let reason = training.step(&work, tensors).unwrap_err();
            assert!(reason.contains(words), "{reason}, not {words}");
        }
    }
}
