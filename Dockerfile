# One image for all services of docker-compose.yml and for single command lines; `make build-docker` builds it.
ARG AIRFLOW=3.3.2-python3.12

FROM apache/airflow:${AIRFLOW} AS wheel
COPY --chown=50000:0 pyproject.toml requirements.txt requirements-cluster.txt README.md LICENSE /tmp/source/
COPY --chown=50000:0 pacsifier_ops /tmp/source/pacsifier_ops
COPY --chown=50000:0 scripts /tmp/source/scripts
COPY --chown=50000:0 dags /tmp/source/dags
COPY --chown=50000:0 include /tmp/source/include
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /tmp/wheel /tmp/source

FROM apache/airflow:${AIRFLOW}
COPY docker/missing.py requirements.lock /tmp/build/
# What the image has stays as Airflow's own constraints have it; the rest is as our lock file has it.
RUN python /tmp/build/missing.py /tmp/build/requirements.lock > /tmp/missing.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/missing.txt \
    && rm /tmp/missing.txt
COPY --from=wheel /tmp/wheel /tmp/wheel
RUN pip install --no-cache-dir --no-deps /tmp/wheel/*.whl && pip check

COPY dags /opt/airflow/dags
COPY include /opt/pacsifier/include
COPY docker /opt/pacsifier/docker

USER 0
# A file for Airflow's settings that is there, or it wants to write one. The programs are for any user: `docker run --user`.
RUN rm -rf /tmp/build /tmp/wheel \
    && install -o 50000 -g 0 -m 0664 /dev/null /opt/airflow/airflow.cfg \
    && install -d -o 50000 -g 0 -m 0770 /data /state /state/requests /state/leases \
    && chmod a+rx /home/airflow /home/airflow/.local /opt/pacsifier/docker/*.sh \
    && chmod -R a+rX /opt/airflow/dags /opt/pacsifier

# A user that the image does not know still has a name.
ENV USER=airflow
ENTRYPOINT ["/usr/bin/dumb-init", "--", "/opt/pacsifier/docker/entrypoint.sh"]

# Nobody in particular can run it, or there is no image.
USER 12345:12345
RUN ["/opt/pacsifier/docker/entrypoint.sh", "pacsifier", "--version"]
USER 50000:0

ARG VERSION
LABEL org.opencontainers.image.title="PACSIFIER for Airflow" \
      org.opencontainers.image.description="From a table of queries to verified DICOM series on disk" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
