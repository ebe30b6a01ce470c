/** The error that a call throws or a promise rejects with. */
export async function failure(call: () => unknown): Promise<Error & { code?: string }> {
  try {
    await call()
  } catch (error) {
    return error as Error & { code?: string }
  }
  throw new Error('expected a failure')
}

/** Expects a failure with a code and words in its message. */
export async function expectFailure(call: () => unknown, code: string, message: RegExp): Promise<Error> {
  const error = await failure(call)
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(message),
  })
  return error
}
