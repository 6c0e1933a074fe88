'use strict'
// The pure parts say what the vectors say that all SDKs share.

const assert = require('node:assert/strict')
const { readFileSync } = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { aheadPause, backoff, judge } = require('../src/answers')
const { build, UsageError } = require('../src/events')
const { decode, encode } = require('../src/segments')

const vectors = JSON.parse(readFileSync(path.join(__dirname, '../../conformance/vectors.json'), 'utf8'))
const now = new Date(vectors.now)

function callOf({ method, template, status, request_bytes: requestBytes, response_bytes: responseBytes, duration_ms: durationMs }) {
  return { method, template, status, requestBytes, responseBytes, durationMs }
}

for (const vector of vectors.events) {
  test(`an event: ${vector.says}`, () => {
    const subject = vector.subject ?? 'x'.repeat(vector.subject_of)
    const make = () => build(callOf(vector.call ?? vectors.events[0].call), vector.usage, { source: '/s', subject, id: '1', now })
    if (vector.error) return assert.throws(make, UsageError)
    const fixed = { specversion: '1.0', id: '1', source: '/s', type: 'turnpike.usage', time: '2027-01-10T12:30:00.000Z' }
    assert.deepEqual(JSON.parse(make()), { ...fixed, subject, data: vector.data })
  })
}

test('times', () => {
  for (const { milliseconds, text } of vectors.times) {
    const event = build(callOf(vectors.events[0].call), {}, { source: '/s', subject: 's', id: '1', now: new Date(milliseconds) })
    assert.equal(JSON.parse(event).time, text)
  }
})

for (const vector of vectors.answers) {
  test(`an answer: ${vector.says}`, () => {
    const headers = new Headers()
    if (vector.retry_after !== undefined) headers.set('retry-after', vector.retry_after)
    if (vector.date !== undefined) headers.set('date', vector.date)
    const verdict = judge(vector.status, headers, vector.text ?? JSON.stringify(vector.body), { events: vector.events, now })
    assert.equal(verdict.action, vector.action)
    assert.deepEqual(verdict.refusals.map((one) => [one.place, one.reason, one.message]), vector.refusals ?? [])
    assert.deepEqual(verdict.ahead.map((one) => one.place), vector.ahead ?? [])
    if (vector.answered_at !== undefined) assert.deepEqual(verdict.answeredAt, new Date(vector.answered_at))
    assert.equal(verdict.waitSeconds, vector.wait_seconds ?? 0)
    assert.equal(verdict.problem, vector.problem ?? verdict.problem)
  })
}

test('pauses of what is ahead', () => {
  for (const { time, seconds } of vectors.ahead) assert.equal(aheadPause(new Date(time), now, 34 * 86_400), seconds)
})

test('pauses', () => {
  for (const { attempt, first, longest, random, seconds } of vectors.backoff) {
    assert.equal(backoff(attempt, { firstSeconds: first, longestSeconds: longest, random }), seconds)
  }
})

for (const vector of vectors.segments) {
  test(`a segment: ${vector.says}`, () => {
    const lines = decode(Buffer.from(vector.text))
    assert.deepEqual(lines.filter((line) => line.event !== null).map((line) => line.event), vector.events)
    assert.equal(lines.filter((line) => line.event === null).length, vector.damaged)
  })
}

test('what is encoded is decoded', () => {
  const event = '{"subject":"ü😀"}'
  assert.deepEqual(decode(Buffer.from(encode(event) + encode(event))).map((line) => line.event), [event, event])
})
