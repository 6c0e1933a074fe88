'use strict'
// The Express of all tests: the bundled one, or the dev dependency that TURNPIKE_TEST_EXPRESS names (`npm run test:express4`).

const name = process.env.TURNPIKE_TEST_EXPRESS
const express = name === undefined ? require('../vendor/express.cjs') : require(name)
const { version } = name === undefined ? { version: require('../vendor/vendored.json').express } : require(`${name}/package.json`)

module.exports = { express, major: Number(version.split('.')[0]) }
