"""How does a release reach others? A repository on the Hub, with a card that says what the model is and is not."""
