'use strict'
// Which writers of a spool are alive: each listens on a socket beside its segments, and the kernel refuses a connection to a dead one.

const fs = require('node:fs/promises')
const net = require('node:net')
const path = require('node:path')

const PATH_BYTES_MAX = 103 // of a socket's address, on the strictest of the systems
const DEAD = new Set(['ECONNREFUSED', 'ENOENT'])

/** Where a writer's socket is; the shorter of the absolute and the relative path, for the address has a limit. */
function addressOf(folder, writer) {
  const absolute = path.join(folder, `${writer}.sock`)
  const relative = path.relative(process.cwd(), absolute)
  return Buffer.byteLength(relative) < Buffer.byteLength(absolute) ? relative : absolute
}

function fits(folder) {
  return Buffer.byteLength(addressOf(folder, '0'.repeat(16))) <= PATH_BYTES_MAX
}

/** Shows that this process is alive until it ends or the returned function is called. */
async function show(folder, writer) {
  const server = net.createServer((socket) => socket.destroy())
  await new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ path: addressOf(folder, writer), exclusive: true }, resolve) // exclusive: a cluster's primary must not hold it
  })
  server.unref()
  return () => new Promise((resolve) => server.close(resolve))
}

/** Whether a writer is alive. Every doubt counts as alive: a stopped process is, and so is one that is too busy to answer. */
async function isAlive(folder, writer) {
  return new Promise((resolve) => {
    const socket = net.connect({ path: addressOf(folder, writer) })
    const end = (alive) => {
      socket.destroy()
      resolve(alive)
    }
    socket.once('connect', () => end(true))
    socket.once('error', (error) => end(!DEAD.has(error.code)))
    socket.setTimeout(1000, () => end(true))
  })
}

async function bury(folder, writer) {
  await fs.rm(path.join(folder, `${writer}.sock`), { force: true })
}

module.exports = { show, isAlive, bury, fits }
