#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| vdm_fuzz::target("worker").run(data));
