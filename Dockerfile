# The program by itself: `docker build -t vdm .`, `docker run --rm -v "$PWD:/data" vdm sample digits -o /data/digits.png`.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p vdm-cli

FROM debian:bookworm-slim
COPY --from=build /source/target/release/vdm /usr/local/bin/vdm
WORKDIR /data
ENTRYPOINT ["vdm"]
