// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title k of n owners agree on chain.
/// @notice One owner proposes a call, owners confirm it, any owner executes it once k current owners have confirmed.
/// The owners change only by such a call to this contract itself, and that ends every open proposal. It holds no value.
contract Multisig {
    struct Proposal {
        address target;
        bool executed;
        uint64 generation;
        uint32 confirmations;
        bytes data;
    }

    uint256 public constant MAX_OWNERS = 32;

    /// @notice How many owners must confirm.
    uint256 public threshold;
    /// @notice Counts changes of owners. A proposal of an earlier generation is void.
    uint64 public generation;
    mapping(address => bool) public isOwner;
    /// @notice Whether an owner has confirmed a proposal.
    mapping(uint256 id => mapping(address owner => bool)) public confirmed;
    address[] private _owners;
    Proposal[] private _proposals;

    event Proposed(uint256 indexed id, address indexed proposer, address indexed target, bytes data);
    event Confirmed(uint256 indexed id, address indexed owner);
    event ConfirmationRevoked(uint256 indexed id, address indexed owner);
    event Executed(uint256 indexed id, address indexed by);
    event OwnersChanged(address[] owners, uint256 threshold);

    error NotOwner(address caller);
    error OnlySelf();
    error InvalidOwners();
    error NoContract(address target);
    error ProposalUnknown(uint256 id);
    error ProposalExecuted(uint256 id);
    /// @notice The owners changed since it was proposed.
    error ProposalVoid(uint256 id);
    error AlreadyConfirmed(uint256 id, address owner);
    error NotConfirmed(uint256 id, address owner);
    error NotEnoughConfirmations(uint256 id, uint256 given, uint256 needed);
    /// @notice The call failed and said nothing.
    error CallFailed(uint256 id);

    modifier onlyOwner() {
        if (!isOwner[msg.sender]) revert NotOwner(msg.sender);
        _;
    }

    constructor(address[] memory owners_, uint256 threshold_) {
        _setOwners(owners_, threshold_);
    }

    function owners() external view returns (address[] memory) {
        return _owners;
    }

    function proposalCount() external view returns (uint256) {
        return _proposals.length;
    }

    function proposalOf(uint256 id) external view returns (Proposal memory) {
        if (id >= _proposals.length) revert ProposalUnknown(id);
        return _proposals[id];
    }

    /// @notice Proposes a call and confirms it.
    function propose(address target, bytes calldata data) external onlyOwner returns (uint256 id) {
        if (target.code.length == 0) revert NoContract(target);
        id = _proposals.length;
        _proposals.push(Proposal(target, false, generation, 0, data));
        emit Proposed(id, msg.sender, target, data);
        _confirm(id);
    }

    function confirm(uint256 id) external onlyOwner {
        _open(id);
        if (confirmed[id][msg.sender]) revert AlreadyConfirmed(id, msg.sender);
        _confirm(id);
    }

    function revokeConfirmation(uint256 id) external onlyOwner {
        Proposal storage p = _open(id);
        if (!confirmed[id][msg.sender]) revert NotConfirmed(id, msg.sender);
        confirmed[id][msg.sender] = false;
        p.confirmations -= 1;
        emit ConfirmationRevoked(id, msg.sender);
    }

    /// @notice Makes the call, once. A failing call reverts and may be tried again.
    function execute(uint256 id) external onlyOwner returns (bytes memory) {
        Proposal storage p = _open(id);
        if (p.confirmations < threshold) revert NotEnoughConfirmations(id, p.confirmations, threshold);
        p.executed = true;
        emit Executed(id, msg.sender);
        (bool ok, bytes memory answer) = p.target.call(p.data);
        if (!ok) {
            if (answer.length == 0) revert CallFailed(id);
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
        return answer;
    }

    /// @notice Replaces the owners; only by an executed proposal.
    function changeOwners(address[] calldata owners_, uint256 threshold_) external {
        if (msg.sender != address(this)) revert OnlySelf();
        generation += 1;
        _setOwners(owners_, threshold_);
    }

    function _open(uint256 id) private view returns (Proposal storage p) {
        if (id >= _proposals.length) revert ProposalUnknown(id);
        p = _proposals[id];
        if (p.executed) revert ProposalExecuted(id);
        if (p.generation != generation) revert ProposalVoid(id);
    }

    function _confirm(uint256 id) private {
        confirmed[id][msg.sender] = true;
        _proposals[id].confirmations += 1;
        emit Confirmed(id, msg.sender);
    }

    function _setOwners(address[] memory owners_, uint256 threshold_) private {
        if (threshold_ == 0 || threshold_ > owners_.length || owners_.length > MAX_OWNERS) revert InvalidOwners();
        for (uint256 i = 0; i < _owners.length; ++i) {
            isOwner[_owners[i]] = false;
        }
        for (uint256 i = 0; i < owners_.length; ++i) {
            if (owners_[i] == address(0) || owners_[i] == address(this) || isOwner[owners_[i]]) {
                revert InvalidOwners();
            }
            isOwner[owners_[i]] = true;
        }
        _owners = owners_;
        threshold = threshold_;
        emit OwnersChanged(owners_, threshold_);
    }
}
