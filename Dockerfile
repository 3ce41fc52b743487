# Builds mcp-api and adds Node.js and Python for the MCP servers that it runs.
# docker run -p 8080:8080 --env-file .env mcp-api needs ADMIN_TOKEN or ALLOW_UNAUTHENTICATED=true in .env.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN tests/bench/build-dist

FROM node:22.22.2-bookworm-slim AS node

FROM python:3.13.12-slim-bookworm
# Copies Node.js and npm from the official Node.js image.
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
 && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx \
 && useradd --create-home --uid 10001 mcp \
 && install -d -o mcp -g mcp -m 700 /data
COPY --from=build /src/target/dist/mcp-api /usr/local/bin/mcp-api
USER mcp
WORKDIR /home/mcp
ENV HOST=0.0.0.0 PORT=8080 DATA_DIR=/data LOG_FORMAT=json PYTHON_BIN=/usr/local/bin/python3.13
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=2)"]
CMD ["mcp-api", "serve"]
