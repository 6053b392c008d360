//! The loaders on published files, where a machine has them.

use vdm::ImageShape;
use vdm::data::{Split, load_idx_split};

/// Set this to the folder of the four Fashion-MNIST files to run the test.
const FASHION_MNIST: &str = "VDM_FASHION_MNIST";

#[test]
fn fashion_mnist_is_read_in_full() {
    let Some(dir) = std::env::var_os(FASHION_MNIST) else {
        println!("skipped: {FASHION_MNIST} is not set to the folder of Fashion-MNIST");
        return;
    };
    for (split, count) in [(Split::Train, 60_000), (Split::Test, 10_000)] {
        let set = load_idx_split(&dir, split).unwrap();
        assert_eq!(set.len(), count);
        assert_eq!(set.shape(), ImageShape { channels: 1, height: 28, width: 28 });
        assert_eq!((set.levels(), set.classes()), (256, 10));
        // Both splits have as many images of each of the ten classes.
        let labels = set.labels().unwrap();
        for class in 0..10 {
            assert_eq!(labels.iter().filter(|&&label| label == class).count(), count / 10);
        }
        assert_eq!(set.bytes().iter().max(), Some(&255));
    }
}
