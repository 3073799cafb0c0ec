"""The classical methods that the network is measured against, each walked forward."""
