package client

// What a server may make us hold, in bytes unless the name says otherwise.
const (
	// maxOptionReply: a name and a description of 4096 bytes each fit twice.
	maxOptionReply = 16 << 10
	// maxString is the protocol's limit for names and messages.
	maxString = 4096
	// maxExports bounds a listing, in entries.
	maxExports = 1 << 20
	// maxContexts bounds the contexts of one export, in entries.
	maxContexts = 64
	// maxDescriptors of one block status chunk; the protocol's own limit.
	maxDescriptors = 1 << 20
	// maxErrorChunk: number, length, message, and room for an error type that
	// has fields we do not know.
	maxErrorChunk = maxString + 256
	// maxFragments bounds the separate stretches a read may have arrived in.
	maxFragments = 1 << 16

	// DefaultWindow is how many requests may be in flight at once.
	DefaultWindow = 128
)
