"""CPUs without VNNI: proofs that a layer cannot saturate, and repairs that leave every exact result as it is."""
