# s3mount as an image: docker build -t s3mount . ; what it needs of the host is told in docs/operations.md.
# Both stages start from the same base, so that the Python built against is the Python run with; any Debian 12 or newer
# will do: --build-arg BASE=my-debian.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
        ca-certificates fuse3 gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv >/dev/null
WORKDIR /source
COPY . .
# Of the services that boto3 describes those stay that s3mount asks: S3, and whoever gives credentials. pip and
# setuptools have done their work.
RUN python3 -m venv /opt/s3mount \
    && /opt/s3mount/bin/pip install --quiet --no-cache-dir --disable-pip-version-check . \
    && cd "$(/opt/s3mount/bin/python -c 'import botocore, os; print(os.path.dirname(botocore.__file__))')" \
    && find data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -r {} + \
    && /opt/s3mount/bin/pip uninstall --quiet --yes setuptools pip

FROM ${BASE}
# tini is process 1: it passes signals on, from the first moment, and reaps.
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
        ca-certificates fuse3 libfuse3-3 python3-minimal python3 tini >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && sed -i 's/^#user_allow_other/user_allow_other/' /etc/fuse.conf \
    && groupadd --gid 10001 s3mount \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin s3mount \
    && install -d -m 0755 -o s3mount -g s3mount /run/s3mount /mnt/s3 /mnt/s3/bucket \
    && install -d -m 1777 /var/cache/s3mount
COPY --from=build /opt/s3mount /opt/s3mount
# The cache directory is one below the volume: whatever owns the volume, s3mount makes its own in it and closes it.
ENV PATH=/opt/s3mount/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    S3MOUNT_CACHE_DIR=/var/cache/s3mount/mounts \
    S3MOUNT_MOUNTPOINT=/mnt/s3/bucket
USER s3mount
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD s3mount healthcheck "$S3MOUNT_MOUNTPOINT"
ENTRYPOINT ["tini", "--", "s3mount"]
CMD ["mount", "--foreground"]
