# The two commands of the README are scripts/demo and scripts/test; this is for those who work on pgfiles.

.PHONY: demo test check fmt test-unit test-pg test-mount test-versions faults doc deny \
	bench bench-quick model conformance nfs fuzz macos packages pjdfstest fsx directory sqlite git archives programs stress dbench

demo:            ## set up, build, and show the main job on a private Postgres
	scripts/demo

test:            ## all that CI runs
	scripts/test

check:           ## before each commit: format, lints, the crates alone, docs, and (where installed) cargo deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo check -p pgfiles-vfs -p pgfiles-store
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --quiet
	if cargo deny --version >/dev/null 2>&1; then cargo deny check; fi

fmt:
	cargo fmt --all

test-unit:       ## what needs neither a server nor a mount
	cargo test --workspace --lib --bins

test-pg:         ## the store on a real Postgres
	cargo test -p pgfiles-store --features pg

test-mount:      ## the program with real mounts (needs /dev/fuse)
	cargo test -p pgfiles-fuse -p pgfiles

test-versions:   ## the store on every Postgres installed in /usr/lib/postgresql, or named: make test-versions PG_BINS="/a/bin /b/bin"
	for bin in $(or $(PG_BINS),$(wildcard /usr/lib/postgresql/*/bin)); do \
		echo "== $$($$bin/postgres --version)"; \
		PGFILES_TEST_PG_BIN=$$bin cargo test -p pgfiles-store --features pg || exit 1; \
	done

E2E = cargo test --release -p pgfiles --test e2e -- --nocapture --test-threads=1

faults:          ## the fault and large-file tests at full size: 200 kills of the daemon, 50 of the server, 5 GiB (docs/faults.md)
	PGFILES_TEST_ROUNDS=50 $(E2E) faults:: --skip a_killed_daemon
	PGFILES_TEST_ROUNDS=200 $(E2E) faults::a_killed_daemon
	PGFILES_TEST_LARGE_MIB=5120 $(E2E) large::
	PGFILES_TEST_OPEN_FILES=10000 PGFILES_TEST_HUGE_MIB=1024 $(E2E) limits::

bench:           ## pgfiles beside a plain directory, a filesystem in memory and Postgres alone (docs/performance.md); BENCH='--delay-ms 1'
	cargo build --release --locked -p pgfiles -p pgfiles-bench
	target/release/pgfiles-bench $(BENCH)

bench-quick:     ## the same in about two minutes, with small sizes
	$(MAKE) bench BENCH='--quick $(BENCH)'

model:           ## random operations against a plain model (docs/model.md): PGFILES_TEST_STEPS, ten million if not set
	cargo test --release -p pgfiles-vfs --test it -- --ignored --exact --nocapture model::many_seeds

conformance:     ## the suites that others wrote, at full size (docs/conformance.md); each is a target of its own too
	scripts/conformance/all

fuzz:            ## hostile compounds and spoiled bytes for the NFS server: PGFILES_TEST_FUZZ_SECONDS, an hour if not set
	PGFILES_TEST_FUZZ_SECONDS=$${PGFILES_TEST_FUZZ_SECONDS:-3600} cargo test -p pgfiles-nfs --test it -- --nocapture fuzz

nfs:             ## the NFS server with Linux's own client in a small virtual machine (docs/nfs.md)
	scripts/conformance/nfs

macos:           ## type-checks the program for macOS, on Debian (docs/nfs.md)
	scripts/check-macos

packages:        ## the Debian package, the static program and the archive, made and tried, on Debian as root (docs/packages.md)
	scripts/setup test
	cargo build --release --locked -p pgfiles
	package=$$(scripts/package deb) && scripts/package-test deb "$$package"
	program=$$(scripts/package static) && scripts/package-test static "$$program"
	scripts/package tar

pjdfstest fsx directory sqlite git archives programs stress dbench: ## fewer operations: make fsx CONFORMANCE_OPS=2000
	scripts/conformance/$@

doc:
	cargo doc --workspace --no-deps

deny:
	cargo deny check
