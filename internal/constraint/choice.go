package constraint

// FromChoices is just these texts.
func FromChoices(texts []string) *Grammar {
	var choice Choice
	for _, text := range texts {
		choice = append(choice, Text(text))
	}
	return &Grammar{Rules: map[string]Expr{"choice": choice}, Start: "choice"}
}
