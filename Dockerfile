# blackstart with its Kubernetes client, for `blackstart run --in-cluster --image`: it runs as any user, on a file system that is read-only.
#
#     docker build -t blackstart:0.1.0 .                              on any base with Python 3.11 or newer, its venv module and pip
#     docker build -t blackstart:0.1.0 --build-arg BASE=python:3.13-slim .
ARG BASE=python:3.12-slim

FROM ${BASE} AS built
COPY . /src
RUN python3 -m venv /opt/blackstart \
 && /opt/blackstart/bin/python3 -m pip install --no-cache-dir --disable-pip-version-check '/src[kubernetes]' \
 && /opt/blackstart/bin/python3 -m pip uninstall --yes --quiet pip

FROM ${BASE}
COPY --from=built /opt/blackstart /opt/blackstart
ENV PATH=/opt/blackstart/bin:$PATH
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["blackstart"]
CMD ["--help"]
