// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Governed} from "./Governed.sol";
import {IApprovals} from "./IPolicy.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @notice What people approve: one action of one agent at one audience.
struct Approval {
    bytes32 agent;
    /// SHA-256 of who may accept the envelope.
    bytes32 audience;
    /// Hash of the canonical target.
    bytes32 target;
    /// SHA-256 of the selected parameters.
    bytes32 params;
    uint256 maxAmount;
    /// Unix seconds; from then on it is closed.
    uint64 expiry;
    /// Random, so that two approvals of the same thing differ.
    bytes32 nonce;
}

/// @title Human approvals: k of n, EIP-712, single use.
/// @notice Anyone may submit the approvers' signatures. An approval closes when it is used, withdrawn or expired, and
/// never opens again.
contract ApprovalRegistry is Governed, EIP712, IApprovals {
    enum Status {
        None,
        Open,
        Used,
        Withdrawn
    }

    bytes32 private constant APPROVAL_TYPE = keccak256(
        "Approval(bytes32 agent,bytes32 audience,bytes32 target,bytes32 params,uint256 maxAmount,uint64 expiry,bytes32 nonce)"
    );
    uint256 public constant MAX_APPROVERS = 32;

    /// @notice Marks approvals as used; it can do nothing else.
    address public consumer;
    /// @notice How many approvers must sign.
    uint256 public threshold;
    mapping(bytes32 approval => Status) public statusOf;
    mapping(bytes32 approval => Approval) private _approvals;
    mapping(address => bool) public isApprover;
    address[] private _approvers;

    event ApproversChanged(address[] approvers, uint256 threshold);
    event ConsumerChanged(address indexed previous, address indexed current);
    event Approved(bytes32 indexed approval, bytes32 indexed agent, bytes32 indexed target, uint64 expiry);
    event ApprovalUsed(bytes32 indexed approval, bytes32 indexed sae);
    event ApprovalWithdrawn(bytes32 indexed approval, address indexed by);

    error InvalidApprovers();
    error NotEnoughSignatures(uint256 given, uint256 needed);
    /// @notice Signers must be approvers, each once, in ascending order.
    error SignerRefused(address signer);
    error ApprovalExpired(uint64 expiry);
    error ApprovalStatus(bytes32 approval, Status status);

    constructor(
        address timelock_,
        address multisig_,
        address guardian_,
        address consumer_,
        address[] memory approvers_,
        uint256 threshold_
    ) Governed(timelock_, multisig_, guardian_) EIP712("Writ ApprovalRegistry", "1") {
        _setApprovers(approvers_, threshold_);
        consumer = consumer_;
        emit ConsumerChanged(address(0), consumer_);
    }

    function setApprovers(address[] calldata approvers_, uint256 threshold_) external onlyTimelock {
        _setApprovers(approvers_, threshold_);
    }

    function setConsumer(address consumer_) external onlyTimelock {
        emit ConsumerChanged(consumer, consumer_);
        consumer = consumer_;
    }

    function approvers() external view returns (address[] memory) {
        return _approvers;
    }

    /// @notice The approval with this id; all zero when unknown.
    function approvalOf(bytes32 approval) external view returns (Approval memory) {
        return _approvals[approval];
    }

    /// @notice The id of an approval: what its approvers sign (EIP-712), bound to this chain and contract.
    function approvalId(Approval calldata a) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(APPROVAL_TYPE, a.agent, a.audience, a.target, a.params, a.maxAmount, a.expiry, a.nonce)
            )
        );
    }

    /// @notice Opens an approval with the signatures of enough approvers, ordered by address.
    function approve(Approval calldata a, bytes[] calldata signatures) external returns (bytes32 id) {
        if (a.agent == 0 || a.audience == 0 || a.target == 0 || a.params == 0) revert ZeroValue();
        if (a.expiry <= block.timestamp) revert ApprovalExpired(a.expiry);
        id = approvalId(a);
        if (statusOf[id] != Status.None) revert ApprovalStatus(id, statusOf[id]);
        if (signatures.length < threshold) revert NotEnoughSignatures(signatures.length, threshold);
        address last = address(0);
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = ECDSA.recover(id, signatures[i]);
            if (signer <= last || !isApprover[signer]) revert SignerRefused(signer);
            last = signer;
        }
        statusOf[id] = Status.Open;
        _approvals[id] = a;
        emit Approved(id, a.agent, a.target, a.expiry);
    }

    /// @inheritdoc IApprovals
    function isOpen(bytes32 approval, bytes32 agent, bytes32 target, bytes32 params, uint256 amount)
        external
        view
        returns (bool)
    {
        if (statusOf[approval] != Status.Open) return false;
        Approval storage a = _approvals[approval];
        return a.agent == agent && a.target == target && a.params == params && amount <= a.maxAmount
            && block.timestamp < a.expiry;
    }

    /// @notice Marks an approval as used by an envelope.
    function consume(bytes32 approval, bytes32 sae) external {
        if (msg.sender != consumer) revert Unauthorized(msg.sender);
        if (sae == 0) revert ZeroValue();
        Status status = statusOf[approval];
        if (status != Status.Open) revert ApprovalStatus(approval, status);
        statusOf[approval] = Status.Used;
        emit ApprovalUsed(approval, sae);
    }

    /// @notice Closes an approval, or keeps one that was only signed from ever opening.
    function withdraw(bytes32 approval) external {
        if (!isApprover[msg.sender] && msg.sender != guardian && msg.sender != timelock) {
            revert Unauthorized(msg.sender);
        }
        Status status = statusOf[approval];
        if (status == Status.Used || status == Status.Withdrawn) revert ApprovalStatus(approval, status);
        statusOf[approval] = Status.Withdrawn;
        emit ApprovalWithdrawn(approval, msg.sender);
    }

    function _setApprovers(address[] memory approvers_, uint256 threshold_) private {
        if (threshold_ == 0 || threshold_ > approvers_.length || approvers_.length > MAX_APPROVERS) {
            revert InvalidApprovers();
        }
        for (uint256 i = 0; i < _approvers.length; ++i) {
            isApprover[_approvers[i]] = false;
        }
        for (uint256 i = 0; i < approvers_.length; ++i) {
            if (approvers_[i] == address(0) || isApprover[approvers_[i]]) revert InvalidApprovers();
            isApprover[approvers_[i]] = true;
        }
        _approvers = approvers_;
        threshold = threshold_;
        emit ApproversChanged(approvers_, threshold_);
    }
}
