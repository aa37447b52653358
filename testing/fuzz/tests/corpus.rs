//! Runs each target over its committed corpus.

use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use filepull_fuzz::TARGETS;

/// Panics of all threads: a task of the server that panics does not end its process.
static N_PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            N_PANICS.fetch_add(1, Ordering::SeqCst);
            print(info);
        }));
    });
}

#[test]
fn no_input_of_the_corpus_panics() {
    count_panics();
    for (name, run) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut n_inputs = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            run(&fs::read(&path).unwrap());
            assert_eq!(N_PANICS.load(Ordering::SeqCst), 0, "{}", path.display());
            n_inputs += 1;
        }
        assert!(5 <= n_inputs, "only {n_inputs} inputs in {}", folder.display());
    }
}
