package constraint

// Tokens is a tokenizer.
type Tokens interface {
	// NumTokens is the largest id + 1.
	NumTokens() int
	// TokenBytes are the bytes that a token adds to a text; false for an id without a token.
	TokenBytes(id int32) (string, bool)
	// IsSpecial reports a control token, which is never part of a text.
	IsSpecial(id int32) bool
}

// Vocabulary is the tokens of a model in the order of their texts: one for all programs and requests, read-only.
type Vocabulary struct {
	size int
}

// NewVocabulary takes the tokens of a model whose ids are below size, which may be more than its tokenizer has. It takes some 100 ms, once a model.
func NewVocabulary(tokens Tokens, size int) *Vocabulary { return &Vocabulary{size: size} }
