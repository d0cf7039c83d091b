# The commands that matter: `make test` runs everything that is tested.
.PHONY: test lint

test:
	@bash tests/run

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
