'use strict'
// From an answered call to a usage event. Pure: ids and time come in as arguments.

const TYPE = 'turnpike.usage'
const SUBJECT_MAX = 256
const METHOD_MAX = 32
const TEMPLATE_MAX = 512
const PROPERTIES_MAX = 24 // the door takes 32 members, the call's own among them
const WHOLE_MAX = 10 ** 12
const STATUS_MIN = 100
const STATUS_MAX = 599

/** The app's own functions returned what cannot become an event; the message says which part. */
class UsageError extends Error {}

/** Returns the event as JSON. Throws UsageError. */
function build(call, usage, { source, subject, id, now }) {
  return JSON.stringify({
    specversion: '1.0',
    id,
    source,
    type: TYPE,
    subject: text('the subject', subject, SUBJECT_MAX),
    time: now.toISOString(),
    data: data(call, usage),
  })
}

function data(call, usage) {
  const found = {
    quantity: whole('quantity', usage.quantity ?? 1),
    status: Math.min(Math.max(call.status, STATUS_MIN), STATUS_MAX),
    method: clean(call.method, METHOD_MAX),
    requestBytes: figure(call.requestBytes),
    responseBytes: figure(call.responseBytes),
    durationMs: figure(call.durationMs),
  }
  if (call.template) found.template = clean(call.template, TEMPLATE_MAX)
  if (usage.meter != null) found.meter = text('meter', usage.meter, 64)
  const properties = Object.entries(usage.properties ?? {})
  if (properties.length > PROPERTIES_MAX) throw new UsageError(`usage has more than ${PROPERTIES_MAX} properties`)
  for (const [name, value] of properties) {
    const checked = whole(`property ${name}`, value)
    if (!Object.hasOwn(found, text("a property's name", name, 64))) found[name] = checked
  }
  return found
}

/** A text that the door takes: no NUL, valid Unicode, cut to its length in characters. */
function clean(value, longest) {
  const good = value.replaceAll('\0', '').toWellFormed()
  return good.length <= longest ? good : [...good].slice(0, longest).join('')
}

function text(name, value, longest) {
  if (typeof value !== 'string' || value === '' || clean(value, longest) !== value) {
    throw new UsageError(`${name} must be a text of 1 to ${longest} characters without NUL`)
  }
  return value
}

function whole(name, value) {
  if (!Number.isSafeInteger(value) || value < 0 || value > WHOLE_MAX) {
    throw new UsageError(`${name} must be a whole number from 0 to ${WHOLE_MAX}`)
  }
  return value
}

function figure(value) {
  return Math.min(Math.max(Math.round(value), 0), WHOLE_MAX)
}

module.exports = { build, UsageError }
