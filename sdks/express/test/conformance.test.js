'use strict'
// The scenarios that all SDKs share: crashes, outages, refusals, full spools, two processes.

const assert = require('node:assert/strict')
const { spawnSync } = require('node:child_process')
const path = require('node:path')
const { test } = require('node:test')

test('every scenario holds', { timeout: 240_000 }, () => {
  const driver = path.join(__dirname, '../../conformance/drive.py')
  const done = spawnSync('python3', [driver, '--app', `${process.execPath} ${path.join(__dirname, 'app.js')}`], { encoding: 'utf8' })
  assert.equal(done.status, 0, `${done.error ?? ''}${done.stdout}${done.stderr}`)
  assert.match(done.stdout, / 0 do not/)
})
