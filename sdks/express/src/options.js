'use strict'
// What can be set, with its defaults and limits. The README explains each.

const path = require('node:path')

const EVENTS_PATH = '/v1/events'
const SPOOL_BYTES_MIN = 64 * 1024

/** An option is wrong: the app should not start. The message names the option and the remedy. */
class ConfigurationError extends Error {}

const DEFAULTS = {
  usage: undefined,
  template: undefined,
  mounts: [],
  spoolFolder: undefined,
  spoolBytesMax: 1 << 30,
  spoolAgeMaxSeconds: 34 * 86_400, // the door refuses what is older than 35 days
  durability: 'disk',
  whenFull: 'block',
  waitSeconds: 5,
  memoryEventsMax: 10_000,
  rejectedBytesMax: 10 << 20,
  batchEventsMax: 500,
  batchBytesMax: 512 * 1024,
  flushSeconds: 1,
  timeoutSeconds: 30,
  backoffSeconds: 0.5,
  backoffMaxSeconds: 60,
  unauthorizedPauseSeconds: 60,
  shutdownSeconds: 5,
  clock: () => new Date(),
  onRejected: undefined,
  onDropped: undefined,
  onError: undefined,
}

function readOptions(given) {
  const unknown = Object.keys(given).filter((name) => !(name in DEFAULTS) && !['url', 'key', 'source', 'subject'].includes(name))
  if (unknown.length) throw new ConfigurationError(`unknown option ${unknown.join(', ')}`)
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const options = { ...DEFAULTS, ...set }
  check(options)
  options.folder = path.resolve(options.spoolFolder ?? process.env.TURNPIKE_SPOOL_DIR ?? 'turnpike-spool')
  const base = options.url.replace(/\/+$/, '')
  options.address = base.endsWith(EVENTS_PATH) ? base : base + EVENTS_PATH
  options.currentKey = typeof options.key === 'function' ? options.key : () => options.key
  return Object.freeze(options)
}

function check(options) {
  const url = typeof options.url === 'string' && URL.canParse(options.url) ? new URL(options.url) : null
  if (url === null || !['http:', 'https:'].includes(url.protocol) || url.search || url.hash) {
    throw new ConfigurationError("url must be the collector's address, e.g. https://usage.example.com")
  }
  if (typeof options.key !== 'function' && !/^[\x21-\x7e]+$/.test(options.key ?? '')) {
    throw new ConfigurationError("key must be the sender's key (tps_...), or a function that returns it")
  }
  if (typeof options.source !== 'string' || !/^[^\s\0]{1,256}$/u.test(options.source)) {
    throw new ConfigurationError("source must be the source of the sender's key, or one below it, e.g. /gateways/one")
  }
  if (typeof options.subject !== 'function') {
    throw new ConfigurationError('subject must be a function from the request to its subscription id')
  }
  if (!Array.isArray(options.mounts) || !options.mounts.every((one) => typeof one === 'string')) {
    throw new ConfigurationError("mounts must be a list of templates, e.g. ['/v1', '/tenants/{tenant}']")
  }
  if (!(options.spoolBytesMax >= SPOOL_BYTES_MIN)) throw new ConfigurationError(`spoolBytesMax must be at least ${SPOOL_BYTES_MIN}`)
  if (!Number.isInteger(options.batchEventsMax) || options.batchEventsMax < 1 || options.batchEventsMax > 1000) {
    throw new ConfigurationError('batchEventsMax must lie between 1 and 1000, which is what the door takes at once')
  }
  if (!['disk', 'process'].includes(options.durability) || !['block', 'drop'].includes(options.whenFull)) {
    throw new ConfigurationError('durability is disk or process, whenFull is block or drop')
  }
}

module.exports = { readOptions, ConfigurationError }
