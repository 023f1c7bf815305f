# Builds everything by itself: `docker build -t lockstep .`; the first stage is not part of the image.
# `make image` takes the last stage alone, with the binary of `make dist`.
ARG RUST=docker.io/library/rust:1-slim-bookworm
FROM ${RUST} AS build
WORKDIR /lockstep
COPY Cargo.toml Cargo.lock LICENSE ./
COPY .ci/dist .ci/dist
COPY src src
RUN .ci/dist root /root-of-image

FROM scratch
LABEL org.opencontainers.image.title="lockstep" \
      org.opencontainers.image.description="Applies PostgreSQL schema migrations" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /root-of-image /
ENV PATH=/usr/local/bin MIGRATIONS_DIR=/migrations
USER 65532:65532
ENTRYPOINT ["lockstep"]
